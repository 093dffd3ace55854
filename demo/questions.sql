-- A few questions in plain words; the answers need not share a word with them.
\set QUIET on
\pset footer off
\pset linestyle unicode
\pset border 2
SET client_min_messages = warning;

\set q 'people who walked on the moon'
\ir ask.sql
\set q 'an illness caused by mold'
\ir ask.sql
\set q 'animals that live in the deep sea'
\ir ask.sql
\set q 'where do Formula One cars race?'
\ir ask.sql
\set q 'who conducts symphonies?'
\ir ask.sql

\echo
\echo 'how the last one ran:'
\pset border 0
\pset tuples_only on
EXPLAIN (ANALYZE, COSTS off, SUMMARY off, TIMING off)
SELECT id FROM passages ORDER BY e <=> distilface_embed_query(:'q') LIMIT 5;
