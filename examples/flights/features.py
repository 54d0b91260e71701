"""One row per flight that arrived: what is known when it leaves the gate, and `arr_delay`, in minutes.

The days of 2013 are dealt to the splits by a hash of their date, so no day is in both.
"""

from trainkit.processing import Check, Features, HashSplit, Passthrough, Source, Standardize, Vocabulary

WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib")
TABLE = f"""
WITH sky AS (
    SELECT origin, time_hour, {", ".join(f"avg({name}) AS {name}" for name in WEATHER)}
    FROM weather GROUP BY ALL  -- one hour of November comes twice
),
clock AS (
    SELECT *, sched_dep_time // 100 * 60 + sched_dep_time % 100 AS sched_dep,
           sched_arr_time // 100 * 60 + sched_arr_time % 100 AS sched_arr
    FROM flights WHERE arr_delay IS NOT NULL  -- cancelled and diverted flights never arrived
)
SELECT f.*, sky.* EXCLUDE (origin, time_hour), planes.seats, planes.model AS aircraft, f.year - planes.year AS age,
       airports.lat, airports.lon, airports.alt,
       (sched_arr - sched_dep + 1440) % 1440 AS sched_span,  -- both are local times: this holds the time zones too
       printf('%d-%02d-%02d', f.year, f.month, f.day) AS date,
       strftime(make_date(f.year, f.month, f.day), '%a') AS weekday,
       concat_ws(' ', date, f.carrier, f.flight, f.origin, f.sched_dep_time) AS id
FROM clock f
LEFT JOIN sky ON f.origin = sky.origin AND f.time_hour = sky.time_hour
LEFT JOIN planes ON f.tailnum = planes.tailnum
LEFT JOIN airports ON f.dest = airports.faa
"""

features = Features(
    tables={name: Source(name, nulls=("NA", "")) for name in ("flights", "weather", "planes", "airports")},
    table=TABLE,
    key="id",
    target="arr_delay",
    numeric=[
        *(Standardize(name) for name in ("dep_delay", "distance", "sched_dep", "sched_arr", "sched_span", *WEATHER)),
        *(Standardize(name) for name in ("age", "seats", "lat", "lon", "alt")),
        Passthrough("dep_delay", name="departed"),  # the naive guess, to compare with
    ],
    categorical=[Vocabulary(name) for name in ("carrier", "origin", "dest", "aircraft", "month", "weekday")],
    split=HashSplit("date", train=0.8, test=0.2),
    checks=[Check("distance > 0"), Check("temp IS NOT NULL", allow=0.02), Check("seats IS NOT NULL", allow=0.25)],
)
