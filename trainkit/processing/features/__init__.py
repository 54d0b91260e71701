"""Features: declared once (declared), fitted (fit), frozen (artifact), applied anywhere (rows, batches, write).

    declared ─▶ fit ─▶ artifact ─┬▶ write: duckdb, whole tables           the meaning as SQL stands in sql.py
                                 ├▶ spark_run, spread: Spark, all hosts   … in both engines' words
                                 ├▶ rows: one row, at inference           … as Python in rows.py
                                 └▶ batches: many rows, numpy             … as numpy in batches.py

All are the same bits: only IEEE's own +, -, *, / and comparisons, integers, UTF-8 bytes and MD5 are used.
"""
