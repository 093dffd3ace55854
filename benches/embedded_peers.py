"""hnswlib or usearch on the data of benches/embedded.rs: build time, then recall against queries a second.

usage: embedded_peers.py hnswlib|usearch-f32|usearch-i8 DIR
"""

import os
import sys
import time

import numpy

DIMS, K = 384, 10
name, folder = sys.argv[1:]
rows = numpy.fromfile(f"{folder}/rows.f32", numpy.float32).reshape(-1, DIMS)
queries = numpy.fromfile(f"{folder}/queries.f32", numpy.float32).reshape(-1, DIMS)
truth = numpy.fromfile(f"{folder}/truth.u32", numpy.uint32).reshape(-1, K)
threads = os.cpu_count()


def hnswlib_index():
    import hnswlib

    index = hnswlib.Index(space="cosine", dim=DIMS)
    index.init_index(max_elements=len(rows), M=16, ef_construction=64)
    index.add_items(rows, num_threads=threads)
    # One query a call, as a backend has one.
    return index.set_ef, lambda query: index.knn_query(query, k=K, num_threads=1)[0][0]


def usearch_index(dtype):
    from usearch.index import Index

    index = Index(
        ndim=DIMS, metric="cos", dtype=dtype, connectivity=16, expansion_add=64, expansion_search=64
    )
    index.add(numpy.arange(len(rows)), rows, threads=threads)

    def set_ef(ef):
        index.expansion_search = ef

    return set_ef, lambda query: index.search(query, K, threads=1).keys


started = time.perf_counter()
if name == "hnswlib":
    set_ef, search = hnswlib_index()
else:
    set_ef, search = usearch_index(name.removeprefix("usearch-"))
print(f"{name} build {time.perf_counter() - started:.1f} s on {threads} threads")
for ef in (10, 20, 40, 80, 160, 320):
    set_ef(ef)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        answers = [search(query) for query in queries]
        seconds.append(time.perf_counter() - started)
    found = sum(len(set(map(int, a)) & set(map(int, t))) for a, t in zip(answers, truth))
    print(f"{name} ef {ef} recall {found / truth.size:.4f} queries/s {len(queries) / sorted(seconds)[1]:.0f}")
