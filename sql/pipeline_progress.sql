-- Watching pipelines.

-- True counts, by looking at every row: for a table, of what it has and what is to come.
CREATE FUNCTION distilface.owner_count(target regclass, args jsonb) RETURNS jsonb
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET extra_float_digits = 3
AS $$
DECLARE
	p distilface.pipeline;
	key text;
	counts jsonb;
BEGIN
	SELECT d.* INTO p FROM distilface.describe(owner_count.target) d WHERE d.id = (args ->> 'pipeline')::integer;
	key := CASE WHEN cardinality(p.keys) > 0 THEN distilface.key_expression(p.keys, 't') ELSE 't.ctid::text' END;
	EXECUTE format('SELECT jsonb_build_object(''done'', count(*) FILTER (WHERE has AND NOT waits AND NOT bad),
			''pending'', count(*) FILTER (WHERE NOT bad AND (waits OR $2 AND NOT has AND body)), ''failed'', count(*) FILTER (WHERE bad))
		FROM (SELECT %1$s AS has, t.%2$I ~ ''[^[:space:]]'' AS body, q.key IS NOT NULL AS waits, f.key IS NOT NULL AND q.key IS NULL AND NOT %1$s AS bad
			FROM %3$s t
			LEFT JOIN (SELECT DISTINCT w.key FROM distilface.queue w WHERE w.pipeline = $1) q ON q.key = %4$s
			LEFT JOIN (SELECT w.key, w.relation FROM distilface.failed_rows w WHERE w.pipeline = $1) f
				ON f.key = %4$s AND f.relation IN (t.tableoid, %5$s)) s',
		CASE WHEN p.chunk_table IS NULL THEN format('(t.%I IS NOT NULL)', p.target)
			ELSE format('EXISTS (SELECT FROM %s c WHERE (%s) = (%s))', p.chunk_table,
				(SELECT string_agg(format('c.%I', k), ', ') FROM unnest(p.chunk_keys) k),
				(SELECT string_agg(format('t.%I', k), ', ') FROM unnest(p.keys) k)) END,
		p.source, p.relation, key, p.relation::oid)
		INTO counts USING p.id, NOT p.filled;
	RETURN counts;
END
$$;

-- Whoever looks, the table is read as its owner: casts and views of the owner's run with no more rights
-- than the owner's. What keeps one table from being read is told in its own row.
CREATE FUNCTION distilface.count_rows(pipeline integer, relation regclass,
		OUT done bigint, OUT pending bigint, OUT failed bigint, OUT error text)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	counts jsonb;
BEGIN
	counts := distilface.as_owner(relation, 'owner_count', jsonb_build_object('pipeline', pipeline));
	done := (counts ->> 'done')::bigint;
	pending := (counts ->> 'pending')::bigint;
	failed := (counts ->> 'failed')::bigint;
EXCEPTION WHEN OTHERS THEN
	error := SQLERRM;
END
$$;

CREATE VIEW distilface.progress WITH (security_barrier) AS
	SELECT d.id AS pipeline, d.relation AS "table", d.source,
		coalesce(d.chunk_table::pg_catalog.text, d.target) AS target, d.form, d.model,
		CASE WHEN d.replaces IS NOT NULL THEN 'replacing' WHEN NOT d.filled THEN 'filling' ELSE 'live' END AS state,
		n.done, n.pending, n.failed, a.rows_per_second,
		-- The bounds keep whatever the rate says from being an error of everybody's.
		CASE WHEN n.pending = 0 THEN interval '0' WHEN a.rows_per_second > 0
			THEN make_interval(secs => least(n.pending / greatest(a.rows_per_second, 1e-3), 1e9)) END AS time_left,
		a.last_run, coalesce(n.error, a.last_error) AS last_error,
		CASE WHEN n.error IS NULL THEN a.last_error_at ELSE pg_catalog.now() END AS last_error_at
	FROM distilface.describe() d
	JOIN pg_catalog.pg_class c ON c.oid = d.relation
	LEFT JOIN distilface.activity a ON a.pipeline = d.id
	CROSS JOIN LATERAL distilface.count_rows(d.id, d.relation) n
	WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE');
GRANT SELECT ON distilface.progress TO PUBLIC;
COMMENT ON VIEW distilface.progress IS 'how far each pipeline is, counted row by row';

CREATE VIEW distilface.failures WITH (security_barrier) AS
	SELECT p.relation AS "table", f.pipeline, f.key, f.sqlstate, f.error, f.attempts, f.failed_at
	FROM distilface.failed_rows f JOIN distilface.pipelines p ON p.id = f.pipeline
	JOIN pg_catalog.pg_class c ON c.oid = p.relation
	WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE');
GRANT SELECT ON distilface.failures TO PUBLIC;
COMMENT ON VIEW distilface.failures IS 'rows that could not be embedded, with their error';
