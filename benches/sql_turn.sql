-- One turn of the search measurements: exact scan and index, ours and pgvector's.
SET enable_indexscan = off;
INSERT INTO turns SELECT 'exact scan, 10 nearest', 'distilface', median_ms(:'ours', q) FROM literals;
\if :pgvector
INSERT INTO turns SELECT 'exact scan, 10 nearest', 'pgvector', median_ms(:'theirs', q) FROM literals;
\endif
RESET enable_indexscan;
SET enable_seqscan = off;
INSERT INTO turns SELECT 'HNSW, 10 nearest, ef_search 40', 'distilface', median_ms(:'ours', q) FROM literals;
\if :pgvector
INSERT INTO turns SELECT 'HNSW, 10 nearest, ef_search 40', 'pgvector', median_ms(:'theirs', q) FROM literals;
\endif
RESET enable_seqscan;
