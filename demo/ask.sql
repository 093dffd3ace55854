-- One question, in the variable q: the nearest passages, their cosine distances, and the time it took.
\echo
\echo :q
\timing on
SELECT round((e <=> distilface_embed_query(:'q'))::numeric, 3) AS distance, left(body, 96) AS passage
  FROM passages ORDER BY e <=> distilface_embed_query(:'q') LIMIT 5;
\timing off
