# Airflow with Night Porter's bundle, for docker-compose.yaml and for any other place that runs containers.
#
# The tag is exact. Whoever needs the very same bytes for ever adds the digest that their own pull printed:
# apache/airflow:slim-3.3.2-python3.11@sha256:…
#
# The slim variant of the official image, because the full one brings a hundred providers at versions that are not
# in constraints.txt. The locked packages go into an environment of their own, so that what runs in the container
# is exactly what the tests ran, and nothing of the image's own packages can be mixed into it.
FROM apache/airflow:slim-3.3.2-python3.11

SHELL ["/bin/bash", "-o", "errexit", "-o", "nounset", "-o", "pipefail", "-c"]

# Majors whose pg_dump is at hand: Night Porter takes the oldest that is not older than the server.
# 16 is the first with zstd, so it serves 13 to 16 (an archive of 17 does not restore into those without an error);
# 17 and 18 serve their own.
ARG POSTGRES_MAJORS="16 17 18"

USER 0
# PostgreSQL's own archive is set up by the script (and the key) in Debian's package postgresql-common. The base image
# may bring a list of the same archive, and apt refuses two that name different keys. Minor releases are wanted as they
# come, and old ones leave the archive, so the packages have no exact version.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates postgresql-common \
    && rm -f /etc/apt/sources.list.d/pgdg.* \
    && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y \
    && for major in ${POSTGRES_MAJORS}; do \
        apt-get install --yes --no-install-recommends "postgresql-client-${major}"; \
        "/usr/lib/postgresql/${major}/bin/pg_dump" --version; \
    done \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner=airflow --group=root /opt/venv

# `airflow` by number, so that Kubernetes can see that it is not root.
USER 50000
COPY requirements.txt constraints.txt /opt/requirements/
# The base image sets PIP_USER, which pip refuses inside an environment.
RUN export PIP_USER=false \
    && python -m venv /opt/venv \
    && /opt/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
        --requirement /opt/requirements/requirements.txt --constraint /opt/requirements/constraints.txt \
    && /opt/venv/bin/python -m pip check --disable-pip-version-check \
    && mkdir --parents /opt/airflow/auth /opt/airflow/logs

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/night-porter \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/night-porter \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/night-porter/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False

# Owned by root: no task can change the code that runs it.
COPY .airflowignore /opt/night-porter/.airflowignore
COPY include /opt/night-porter/include
COPY plugins /opt/night-porter/plugins
COPY dags /opt/night-porter/dags
COPY deploy/init.py /opt/deploy/init.py
