"""The journal of a job: finished requests written as they end, kept through any end, and found again.

answers   Answers by what was asked: a log in one file.
identity  What a job is: its settings and its requests as digests, and which of them differ.
journal   `Journal`: the outputs of one job, its log, and what is safe on the disk.
opening   Opening a journal: one run at a time, begun anew or gone on with.
records   The lines of the log beside an output.
recovery  What is whole of the outputs of a job that ended anyhow.
store     The files of a job: locked, appended to, synced, replaced.
tape      One output as its log tells it.
"""

from flexplan.journal.answers import Answers
from flexplan.journal.identity import request_digest
from flexplan.journal.journal import Journal
from flexplan.journal.opening import How, open_journal
from flexplan.journal.store import ERRORS, LOG, OUT, FileStore, errors_path, is_beside, log_path

__all__ = [
    "ERRORS",
    "LOG",
    "OUT",
    "Answers",
    "FileStore",
    "How",
    "Journal",
    "errors_path",
    "is_beside",
    "log_path",
    "open_journal",
    "request_digest",
]
