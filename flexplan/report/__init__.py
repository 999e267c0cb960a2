"""What people read: tables, sentences, and plain data for `--json`.

answers    Standard output for answers alone, whatever libraries write there.
job        What a run's rows and caches were in use, and its bound.
objects    What ran as plain data, for `--json` and output lines.
openai_objects OpenAI's objects: lines of a batch's output and error files.
sentences  What an explanation says to people.
tables     Tables for people on a terminal.
"""
