"""Night Porter from a shell: the same functions that the DAGs call, for the day Airflow itself is down."""
