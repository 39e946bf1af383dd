"""The statements that make up a hotel: each table's rows as a function of a seed and a row number.

Every choice is `pg_temp.draw(n, 'purpose')`, a number from 0 up to 1 that depends on the seed, the row and the purpose
alone. So neither the order in which the server works nor how many processes it uses can change a row. Only arithmetic
that is the same on every machine is used: no logarithms, no powers, no sums of floating-point numbers.
"""

from __future__ import annotations

# PostgreSQL places the rows of hash-partitioned tables by this function: it stays the same between releases.
DRAW = """
CREATE FUNCTION pg_temp.draw(n bigint, purpose text) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (hashint8extended(n, hashtextextended(purpose, %(seed)s)) & 9007199254740991)::double precision
        / 9007199254740992
$$
"""

SEASON = """
CREATE FUNCTION pg_temp.season(day date) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (ARRAY[0.35, 0.40, 0.50, 0.62, 0.70, 0.85, 0.98, 1.00, 0.80, 0.62, 0.42, 0.65]::double precision[])
        [date_part('month', day)::int]
$$
"""

# `share` is the percentage of a house's rooms that are of this kind, `demand` how well they sell.
KINDS = """
CREATE TEMPORARY TABLE kinds (
    kind int, code text, name text, capacity int, base_price numeric(10, 2), share int, demand double precision
) ON COMMIT DROP;
INSERT INTO kinds VALUES
    (1, 'DBL', 'Double room', 2, 118.00, 30, 0.95),
    (2, 'TWN', 'Twin room', 2, 112.00, 22, 0.85),
    (3, 'SGL', 'Single room', 1, 79.00, 14, 0.80),
    (4, 'DBS', 'Double room, sea side', 2, 149.00, 9, 1.00),
    (5, 'FAM', 'Family room', 4, 168.00, 7, 0.75),
    (6, 'TRP', 'Triple room', 3, 141.00, 5, 0.60),
    (7, 'SUP', 'Superior room', 2, 175.00, 4, 0.60),
    (8, 'JRS', 'Junior suite', 3, 215.00, 3, 0.50),
    (9, 'ACC', 'Accessible double room', 2, 118.00, 2, 0.45),
    (10, 'APT', 'Apartment', 5, 240.00, 2, 0.55),
    (11, 'STE', 'Suite', 4, 320.00, 1, 0.40),
    (12, 'PNT', 'Penthouse', 6, 690.00, 1, 0.25)
"""

# A unit is what one booking takes: mostly one room, now and then two or three together. A unit is never let to two
# guests at once, and so no night is ever sold beyond the number of rooms there are.
UNITS = """
CREATE TEMPORARY TABLE units ON COMMIT DROP AS
SELECT id, room_type_id, capacity, base_price, demand,
    1 + (pg_temp.draw(id, 'pair') < 0.15)::int + (pg_temp.draw(id, 'group') < 0.05)::int AS rooms
FROM (
    SELECT row_number() OVER (ORDER BY house, kind, n) AS id, (house - 1) * 12 + kind AS room_type_id,
        capacity, base_price, demand
    FROM generate_series(1, %(houses)s) AS house
    CROSS JOIN kinds
    CROSS JOIN LATERAL generate_series(1, greatest(1, (%(units)s * share + 99) / 100)) AS n
) AS unit
"""

# Every unit gets a chain of possible stays, one after another; season, day of the week and the room type's demand
# decide which were booked. Beside a stay that was kept there may be one of somebody who cancelled.
STAYS = """
CREATE TEMPORARY TABLE stays ON COMMIT DROP AS
WITH slot AS (
    SELECT units.*, id * 1000 + k AS slot_id,
        (ARRAY[1, 2, 3, 4, 5, 6, 7, 10, 14])[width_bucket(
            pg_temp.draw(id * 1000 + k, 'nights'),
            ARRAY[0, 0.30, 0.58, 0.75, 0.84, 0.90, 0.92, 0.97, 0.99]::double precision[]
        )] AS nights,
        (ARRAY[0, 0, 0, 0, 0, 0, 1, 1, 2])[1 + floor(9 * pg_temp.draw(id * 1000 + k, 'gap'))::int] AS gap
    FROM units CROSS JOIN generate_series(1, %(slots)s) AS k
), placed AS (
    SELECT slot.*, %(first)s + (sum(nights + gap) OVER (PARTITION BY id ORDER BY slot_id) - nights)::int AS start_date
    FROM slot
), wanted AS (
    SELECT slot_id * 2 + cancelled AS id, room_type_id, rooms, capacity, base_price, start_date, nights,
        cancelled = 1 AS cancelled,
        (ARRAY[1, 0.35]::double precision[])[1 + cancelled] * least(0.97, 1.3 * demand * pg_temp.season(start_date)
            * (ARRAY[0.75, 0.70, 0.70, 0.75, 0.85, 1, 1]::double precision[])
                [date_part('isodow', start_date)::int]) AS chance
    FROM placed CROSS JOIN (VALUES (0), (1)) AS outcome (cancelled)
    WHERE start_date < %(today)s + 182
), booked AS (
    SELECT wanted.*, start_date::timestamptz
        - interval '1 day' * floor(180 * eagerness * eagerness * eagerness)
        - interval '1 second' * floor(1 + 86399 * pg_temp.draw(id, 'second')) AS created_at
    FROM wanted CROSS JOIN LATERAL (SELECT pg_temp.draw(id, 'eagerness') AS eagerness) AS guest
    WHERE pg_temp.draw(id, 'booked') < chance
)
SELECT id, room_type_id, rooms, capacity, base_price, start_date, nights, cancelled, created_at
FROM booked
WHERE created_at < %(now)s
ORDER BY pg_temp.draw(id, 'kept'), id
LIMIT %(bookings)s
"""

ROLES = """
INSERT INTO roles (id, name, description, created_at) VALUES
    (1, 'guest', 'Books for himself or herself', %(opening)s),
    (2, 'receptionist', 'Books for others, checks in and out', %(opening)s),
    (3, 'manager', 'Sets prices, rules and inventory', %(opening)s),
    (4, 'administrator', 'May do everything', %(opening)s)
"""

# Users sign up at an even pace, so that the n-th is known to be there at a given time. No one has these names: the
# addresses are of domains reserved for examples, and +999 is a country code that was never given to a country.
USERS = """
INSERT INTO users (id, role_id, name, email, phone, irca_membership_id, created_at, updated_at)
SELECT n,
    CASE WHEN draw < 0.0005 THEN 4 WHEN draw < 0.001 THEN 3 WHEN draw < 0.004 THEN 2 ELSE 1 END,
    (ARRAY['Ada', 'Bo', 'Cleo', 'Dara', 'Emil', 'Fay', 'Gus', 'Hana', 'Ivo', 'Juno', 'Kit', 'Lio', 'Mara', 'Nico',
        'Oda', 'Pip'])[1 + floor(16 * pg_temp.draw(n, 'first name'))::int]
    || ' ' ||
    (ARRAY['Sample', 'Example', 'Testman', 'Placeholder', 'Specimen', 'Fixture', 'Mockley', 'Dummett', 'Nobody',
        'Fabricant'])[1 + floor(10 * pg_temp.draw(n, 'last name'))::int],
    'guest' || n || (ARRAY['@example.com', '@example.org'])[1 + floor(2 * pg_temp.draw(n, 'domain'))::int],
    '+999' || lpad(n::text, 9, '0'),
    CASE WHEN pg_temp.draw(n, 'member') < 0.3 THEN 'IRCA-' || lpad(n::text, 8, '0') END,
    created_at, created_at
FROM (
    SELECT n, pg_temp.draw(n, 'role') AS draw,
        %(opening)s + interval '1 second' * (%(open_seconds)s * (n - 1) / %(users)s) AS created_at
    FROM generate_series(1::bigint, %(users)s) AS n
) AS person
ORDER BY n
"""

ROOM_TYPES = """
INSERT INTO room_types (id, code, name, capacity, base_price, active, created_at)
SELECT (house - 1) * 12 + kind, 'H' || lpad(house::text, 3, '0') || '-' || code, name, capacity, base_price, true,
    %(opening)s
FROM generate_series(1, %(houses)s) AS house CROSS JOIN kinds
ORDER BY 1
"""

# Numbered in the order they were made, as a real table grows. A guest who came early and often books more: the
# square of the draw prefers those who signed up first, out of those who had signed up by then.
BOOKINGS = """
INSERT INTO bookings (
    id, user_id, room_type_id, start_date, end_date, rooms, guests, status, total_amount, created_at, updated_at
)
WITH numbered AS (
    SELECT stays.*, row_number() OVER (ORDER BY created_at, id) AS number, start_date + nights AS end_date,
        pg_temp.draw(id, 'user') AS luck, pg_temp.draw(id, 'status') AS fate,
        least(%(users)s, 1 + floor(
            date_part('epoch', created_at - %(opening)s)::bigint * %(users)s / %(open_seconds)s
        )) AS signed_up
    FROM stays
)
SELECT number, 1 + floor(signed_up * luck * luck)::bigint, room_type_id, start_date, end_date, rooms,
    rooms + floor(rooms * capacity * pg_temp.draw(id, 'guests'))::int * (capacity - 1) / capacity,
    CASE
        WHEN cancelled THEN 'cancelled'
        WHEN end_date <= %(today)s THEN CASE WHEN fate < 0.03 THEN 'no_show' ELSE 'checked_out' END
        WHEN start_date < %(today)s OR start_date = %(today)s AND fate < 0.5 THEN 'checked_in'
        WHEN fate < 0.005 OR created_at > %(now)s - interval '2 days' AND fate < 0.5 THEN 'pending'
        ELSE 'confirmed'
    END,
    round(base_price * rooms * nights * CASE
        WHEN pg_temp.season(start_date) > 0.9 THEN 1.25 WHEN pg_temp.season(start_date) > 0.6 THEN 1 ELSE 0.85
    END, 2),
    created_at,
    CASE
        WHEN cancelled THEN created_at + interval '1 second' * floor(
            fate * date_part('epoch', least(start_date::timestamptz, %(now)s) - created_at)
        )
        WHEN end_date <= %(today)s THEN end_date::timestamptz + interval '11 hours'
        ELSE created_at
    END
FROM numbered
ORDER BY numbered.created_at, id
"""

# A running sum: what a type has on the first night, less what is taken at each arrival, plus what each departure frees.
ROOM_INVENTORY = """
INSERT INTO room_inventory (id, room_type_id, date, total_rooms, available_rooms, updated_at)
WITH stock AS (
    SELECT room_type_id, sum(rooms) AS total FROM units GROUP BY room_type_id
), changes AS (
    SELECT room_type_id, %(first)s + night AS day, CASE night WHEN 0 THEN total ELSE 0 END AS change
    FROM stock CROSS JOIN generate_series(0, %(today)s - %(first)s + 365) AS night
    UNION ALL
    SELECT room_type_id, start_date, -rooms FROM bookings WHERE status <> 'cancelled'
    UNION ALL
    SELECT room_type_id, end_date, rooms FROM bookings WHERE status <> 'cancelled'
), nights AS (
    SELECT room_type_id, day, sum(sum(change)) OVER (PARTITION BY room_type_id ORDER BY day) AS free
    FROM changes
    GROUP BY room_type_id, day
)
SELECT row_number() OVER (ORDER BY day, room_type_id), room_type_id, day, total, free, %(now)s
FROM nights JOIN stock USING (room_type_id)
ORDER BY day, room_type_id
"""

# A deposit at booking, given back to some of those who cancel, and the balance at departure; a few attempts fail.
PAYMENTS = """
INSERT INTO payments (id, booking_id, user_id, kind, method, amount, status, created_at)
WITH paid AS (
    SELECT booking.id, booking.id * 4 + step AS draw_id, step, booking.user_id, booking.status,
        round(total_amount * 0.30, 2) AS deposit, total_amount,
        CASE step
            WHEN 3 THEN end_date::timestamptz + interval '1 second' * (36000 + floor(7200 * chance))
            ELSE least(%(now)s, booking.created_at + interval '1 second' * (step * 300 + floor(300 * chance)))
        END AS created_at,
        chance
    FROM bookings AS booking
    CROSS JOIN (VALUES (1), (2), (3)) AS attempt (step)
    CROSS JOIN LATERAL (SELECT pg_temp.draw(booking.id * 4 + step, 'payment') AS chance) AS luck
    WHERE CASE step
        WHEN 1 THEN chance < 0.04
        WHEN 2 THEN booking.status <> 'cancelled' OR chance < 0.85
        ELSE booking.status = 'checked_out'
    END
)
SELECT row_number() OVER (ORDER BY created_at, draw_id), id, user_id,
    CASE step WHEN 3 THEN 'balance' ELSE 'deposit' END,
    (ARRAY['card', 'card', 'card', 'card', 'card', 'card', 'card', 'transfer', 'transfer', 'cash'])
        [1 + floor(10 * pg_temp.draw(draw_id, 'method'))::int],
    CASE step WHEN 3 THEN total_amount - deposit ELSE deposit END,
    CASE
        WHEN step = 1 THEN 'failed'
        WHEN status = 'pending' THEN 'pending'
        WHEN status = 'cancelled' AND chance < 0.6 THEN 'refunded'
        WHEN step = 3 AND created_at > %(now)s - interval '3 days' AND chance < 0.3 THEN 'pending'
        ELSE 'succeeded'
    END,
    created_at
FROM paid
ORDER BY paid.created_at, draw_id
"""

# A reminder is scheduled when the booking is made, for the morning before arrival: what lies ahead is pending.
NOTIFICATIONS = """
INSERT INTO notifications (id, user_id, type, channel, status, message, scheduled_at, sent_at, created_at)
WITH message AS (
    SELECT booking.id, booking.id * 4 + step AS draw_id, step, user_id,
        CASE step WHEN 3 THEN updated_at ELSE created_at END AS created_at,
        CASE step
            WHEN 1 THEN created_at + interval '1 minute'
            WHEN 2 THEN greatest(created_at, start_date::timestamptz - interval '15 hours')
            ELSE updated_at + interval '1 minute'
        END AS scheduled_at,
        pg_temp.draw(booking.id * 4 + step, 'message') AS chance
    FROM bookings AS booking
    CROSS JOIN (VALUES (1), (2), (3)) AS message (step)
    WHERE CASE step
        WHEN 1 THEN status <> 'pending'
        WHEN 2 THEN status NOT IN ('pending', 'cancelled')
        ELSE status = 'cancelled'
    END
)
SELECT row_number() OVER (ORDER BY created_at, draw_id), user_id,
    (ARRAY['booking_confirmation', 'arrival_reminder', 'cancellation'])[step],
    CASE WHEN chance < 0.7 THEN 'email' ELSE 'sms' END,
    CASE
        WHEN scheduled_at > %(now)s - interval '30 minutes' THEN 'pending' WHEN chance < 0.01 THEN 'failed' ELSE 'sent'
    END,
    (ARRAY['Your booking is confirmed: number ', 'We look forward to your arrival: booking ',
        'Your booking was cancelled: number '])[step] || id,
    scheduled_at,
    CASE
        WHEN scheduled_at <= %(now)s - interval '30 minutes' AND chance >= 0.01
        THEN scheduled_at + interval '1 second' * floor(60 * chance)
    END,
    created_at
FROM message
ORDER BY message.created_at, draw_id
"""

WAITLIST = """
INSERT INTO waitlist (id, user_id, room_type_id, start_date, end_date, rooms, status, created_at)
SELECT row_number() OVER (ORDER BY created_at, id), user_id, room_type_id, start_date, end_date, rooms,
    CASE
        WHEN start_date > %(today)s THEN CASE WHEN chance < 0.9 THEN 'waiting' ELSE 'offered' END
        WHEN chance < 0.25 THEN 'converted'
        ELSE 'expired'
    END,
    created_at
FROM (
    SELECT booking.*, pg_temp.draw(id, 'outcome') AS chance
    FROM bookings AS booking
    WHERE status = 'cancelled' AND pg_temp.draw(id, 'waited') < 0.12
) AS wish
ORDER BY 1
"""

BOOKING_RULES = """
INSERT INTO booking_rules (
    id, room_type_id, name, start_date, end_date, min_nights, max_nights, max_days_ahead, created_at
)
SELECT row_number() OVER (ORDER BY year, start_month, type.id NULLS FIRST), type.id, season,
    make_date(year, start_month, 1), make_date(year, end_month, 1), min_nights, 14, 365, %(opening)s
FROM generate_series(2023, 2026) AS year
CROSS JOIN (VALUES ('Spring', 1, 7, 1), ('High season', 7, 9, 2), ('Autumn', 9, 12, 1))
    AS part (season, start_month, end_month, min_nights)
CROSS JOIN (SELECT NULL::bigint AS id UNION ALL SELECT id FROM room_types WHERE code LIKE '%%-PNT') AS type
ORDER BY 1
"""

DEPOSIT_POLICIES = """
INSERT INTO deposit_policies (id, room_type_id, percent, refundable_until_days, created_at)
SELECT id, id, 30, CASE WHEN base_price > 200 THEN 14 ELSE 3 END, %(opening)s
FROM room_types
ORDER BY id
"""

SPECIAL_DAYS = """
INSERT INTO special_days (id, name, start_date, end_date, price_factor, created_at)
SELECT row_number() OVER (ORDER BY year, start_day), name || ' ' || year,
    make_date(year, 1, 1) + start_day, make_date(year, 1, 1) + end_day, factor, %(opening)s
FROM generate_series(2023, 2026) AS year
CROSS JOIN (VALUES ('New Year', 0, 2, 1.50), ('Spring fair', 90, 94, 1.20), ('Regatta', 190, 200, 1.35),
    ('Wine festival', 255, 260, 1.25), ('Christmas', 356, 361, 1.40)) AS day (name, start_day, end_day, factor)
ORDER BY 1
"""

# The order is the one in which a statement may read what an earlier one has written.
TABLES = {
    "roles": ROLES,
    "users": USERS,
    "room_types": ROOM_TYPES,
    "bookings": BOOKINGS,
    "room_inventory": ROOM_INVENTORY,
    "payments": PAYMENTS,
    "notifications": NOTIFICATIONS,
    "waitlist": WAITLIST,
    "booking_rules": BOOKING_RULES,
    "deposit_policies": DEPOSIT_POLICIES,
    "special_days": SPECIAL_DAYS,
}
PREPARATIONS = (DRAW, SEASON, KINDS, UNITS, STAYS)
