"""Other people's systems with flexplan inside.

ray_cluster  A Ray cluster: found or started, and held against what a pool of workers needs.
ray_data     flexplan as a step of a Ray Data pipeline.
ray_runtime  The runtime `ray`: a job of the command line, its blocks spread over a pool of workers.
ray_worker   A worker of a pool: one model, and the requests of each batch.
"""
