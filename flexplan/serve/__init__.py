"""Batches over HTTP, on this machine only: OpenAI's ``/v1/files`` and ``/v1/batches``, each batch a job of ``run``.

app      The routes, and errors in OpenAI's form.
asked    What a client may ask for, honoured or refused by name.
objects  OpenAI's objects: files, batches, lists, errors.
server   The server, from its socket to its end.
store    Files and batches on the disk; one server at a time.
worker   The thread that runs batches, the oldest first.
"""
