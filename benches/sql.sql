-- Run by sql.sh. Times are the server's own, milliseconds, medians over calls; the two systems take turns.
\pset footer off
SET client_min_messages = warning;
CREATE EXTENSION distilface;
SELECT count(*) > 0 AS pgvector FROM pg_available_extensions WHERE name = 'vector' \gset
\if :pgvector
CREATE EXTENSION vector;
\endif

-- One core for this session's measurements; the builds below use all.
SELECT pg_backend_pid() AS pid \gset
\setenv PID :pid
\setenv CPU :cpu

CREATE TABLE passages (id int PRIMARY KEY, body text);
COPY passages FROM :'corpus';
CREATE TABLE results (n int GENERATED ALWAYS AS IDENTITY, what text, system text, value numeric, unit text);

-- Median milliseconds of `statement`, with each of `arguments` as its $1.
CREATE FUNCTION median_ms(statement text, arguments text[]) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz;
    argument text;
    times float8[] := '{}';
BEGIN
    FOREACH argument IN ARRAY arguments LOOP
        began := clock_timestamp();
        EXECUTE statement USING argument;
        times := times || extract(epoch FROM clock_timestamp() - began)::float8 * 1000;
    END LOOP;
    RETURN (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY t) FROM unnest(times) t);
END $$;

-- Texts that no cache has seen: 8 words each for a query, whole passages for a batch.
CREATE TABLE questions AS
SELECT id, array_to_string((string_to_array(body, ' '))[2:9], ' ') AS q FROM passages WHERE id <= 400;
SELECT distilface_embed('warm') IS NOT NULL AS warm \gset
\! taskset -pc "$CPU" "$PID" >/dev/null
INSERT INTO results (what, system, value, unit)
SELECT 'embed one query of 8 words', 'distilface', median_ms('SELECT distilface_embed_query($1)', array_agg(q)), 'ms'
  FROM questions WHERE id <= 200;
INSERT INTO results (what, system, value, unit)
SELECT 'embed 64 passages in one call', 'distilface',
       median_ms('SELECT distilface_embed(array_agg(body)) FROM passages WHERE (id - 1) / 64 = $1::int',
                 array(SELECT generate_series(1, 20)::text)), 'ms';
INSERT INTO results (what, system, value, unit)
SELECT 'tokens in such a batch', 'distilface', avg(tokens), ''
  FROM (SELECT sum(distilface_token_count(body)) AS tokens FROM passages
         WHERE (id - 1) / 64 BETWEEN 1 AND 20 GROUP BY (id - 1) / 64) batches;
\! taskset -pc "0-$(($(nproc) - 1))" "$PID" >/dev/null

ALTER TABLE passages ADD e embedding(384);
UPDATE passages p SET e = v.e
  FROM (SELECT unnest(ids) AS id, unnest(distilface_embed(bodies)) AS e
          FROM (SELECT array_agg(id) AS ids, array_agg(body) AS bodies FROM passages GROUP BY (id - 1) / 256) b) v
 WHERE p.id = v.id;
CREATE TABLE queries AS SELECT id, distilface_embed_query(q) AS e FROM questions WHERE id > 200;
\if :pgvector
CREATE TABLE vectors AS SELECT id, e::real[]::vector(384) AS v FROM passages;
\endif
CREATE TABLE plain AS SELECT id, e FROM passages;
VACUUM ANALYZE;
CHECKPOINT;

CREATE FUNCTION build_ms(statement text) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE began timestamptz := clock_timestamp();
BEGIN
    EXECUTE statement;
    RETURN extract(epoch FROM clock_timestamp() - began) * 1000;
END $$;
INSERT INTO results (what, system, value, unit)
SELECT 'build the index, m 16, ef_construction 64', 'distilface', build_ms('CREATE INDEX plain_e ON plain USING distilface_hnsw (e)'), 'ms';
INSERT INTO results (what, system, value, unit)
SELECT 'index size', 'distilface', pg_relation_size('plain_e') / 1024, 'kB';
\if :pgvector
INSERT INTO results (what, system, value, unit)
SELECT 'build the index, m 16, ef_construction 64', 'pgvector', build_ms('CREATE INDEX vectors_v ON vectors USING hnsw (v vector_cosine_ops)'), 'ms';
INSERT INTO results (what, system, value, unit)
SELECT 'index size', 'pgvector', pg_relation_size('vectors_v') / 1024, 'kB';
\endif

-- The ten nearest ids of every query, exactly and by each index; recall is their agreement.
CREATE TABLE truth AS
SELECT q.id AS query, n.id FROM queries q, LATERAL (SELECT id FROM passages p ORDER BY p.e <=> q.e LIMIT 10) n;
\! taskset -pc "$CPU" "$PID" >/dev/null
CREATE VIEW literals AS SELECT array_agg(e::text ORDER BY id) AS q FROM queries;
CREATE FUNCTION recall(index_query text) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE hits bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM queries q, LATERAL (%s) n JOIN truth t ON t.id = n.id WHERE t.query = q.id', index_query)
       INTO hits;
    RETURN hits::numeric / (SELECT count(*) FROM truth);
END $$;

\set ours 'SELECT id FROM plain ORDER BY e <=> $1::embedding LIMIT 10'
\set theirs 'SELECT id FROM vectors ORDER BY v <=> $1::vector LIMIT 10'
-- Five turns each, the best median of them: the machine's other work makes a turn slower, never faster.
CREATE TABLE turns (what text, system text, ms numeric);
\ir sql_turn.sql
\ir sql_turn.sql
\ir sql_turn.sql
\ir sql_turn.sql
\ir sql_turn.sql
INSERT INTO results (what, system, value, unit) SELECT what, system, min(ms), 'ms' FROM turns GROUP BY 1, 2 ORDER BY 1, 2;

SET enable_seqscan = off;
INSERT INTO results (what, system, value, unit)
SELECT 'recall@10 at ef_search 40', 'distilface', recall('SELECT id FROM plain ORDER BY e <=> q.e LIMIT 10'), '';
\if :pgvector
INSERT INTO results (what, system, value, unit)
SELECT 'recall@10 at ef_search 40', 'pgvector', recall('SELECT id FROM vectors ORDER BY v <=> q.e::real[]::vector LIMIT 10'), '';
\endif

SELECT what, round(max(value) FILTER (WHERE system = 'distilface'), 3) AS distilface,
       round(max(value) FILTER (WHERE system = 'pgvector'), 3) AS pgvector, max(unit) AS unit
  FROM results GROUP BY what ORDER BY min(n);
\if :pgvector
SELECT 'pgvector ' || extversion AS beside FROM pg_extension WHERE extname = 'vector';
\else
\echo 'no pgvector in this server: make pg-trees fetches PostgreSQL 18 with it where the wheel exists'
\endif
