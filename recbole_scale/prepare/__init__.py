"""Raw files to atomic files, by pyarrow block by block and numpy on codes.

Why no engine: DuckDB 2.0 was tried behind the csv path (all text, the same checks, 5-core, order by user and time). 20
million rows took it 45 s of CPU and 2.4 GB where these readers take 19 s and 1.8 GB (5 million: 8.6 s and 720 MB, 4.7 s
and 555 MB). What it would replace is the splitting of lines: the checks of ids and times, the sentences with file, line
and column, and exact times in their own unit stay as they are, so that code would not fall by half.

Polars 2.1 with the same steps (``benchmarks/engines.py``, ``results/engines.jsonl``; 2 million rows, a busy machine)
took 2.3 s of CPU and 693 MiB, these readers with all their checks and counts 2.1 s and 282 MiB: not taken either.
"""
