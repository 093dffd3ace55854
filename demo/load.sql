-- The corpus in a table, a vector beside each passage, an index on the vectors.
\set QUIET on
\pset footer off
SET client_min_messages = warning;
CREATE EXTENSION distilface;

CREATE TABLE passages (
    id   int PRIMARY KEY,
    body text NOT NULL,
    e    embedding(384)
);
CREATE TEMP TABLE corpus (id int, body text);
\copy corpus FROM corpus.tsv

SELECT count(*) AS passages, pg_size_pretty(sum(length(body))) AS text FROM corpus;

-- Arrays are embedded in one call each, which is faster than passage by passage.
\echo embedding, 256 passages a call:
\timing on
INSERT INTO passages
SELECT unnest(ids), unnest(bodies), unnest(distilface_embed(bodies))
  FROM (SELECT array_agg(id ORDER BY id) AS ids, array_agg(body ORDER BY id) AS bodies
          FROM corpus GROUP BY (id - 1) / 256) AS batch;
\echo building the index:
CREATE INDEX passages_e ON passages USING distilface_hnsw (e);
\timing off
VACUUM ANALYZE passages;
SELECT pg_size_pretty(pg_relation_size('passages')) AS table_size,
       pg_size_pretty(pg_relation_size('passages_e')) AS index_size;
