-- Watching pipelines.

-- True counts, by looking at every row: for a table, of what it has and what is to come.
CREATE FUNCTION distilface.owner_count(target regclass, args jsonb) RETURNS jsonb
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET extra_float_digits = 3
	SET timezone = 'UTC' SET bytea_output = 'hex' SET lc_monetary = 'C'
AS $$
DECLARE
	p distilface.pipeline;
	counts jsonb;
BEGIN
	SELECT d.* INTO p FROM distilface.describe(owner_count.target) d WHERE d.id = (args ->> 'pipeline')::integer;
	PERFORM distilface.require_sight(p);
	EXECUTE format('SELECT jsonb_build_object(''done'', count(*) FILTER (WHERE has AND NOT waits AND NOT bad),
			''pending'', count(*) FILTER (WHERE waits OR lacks AND NOT bad), ''failed'', count(*) FILTER (WHERE bad))
		FROM (SELECT s.has, s.lacks, q.key IS NOT NULL AS waits, q.key IS NULL AND f.key IS NOT NULL AND (s.lacks OR $2) AS bad
			FROM (SELECT has, t.%1$I IS NOT NULL AND CASE WHEN NOT has THEN NOT distilface.is_blank(t.%1$I::text, %2$L) ELSE false END AS lacks,
					%3$s AS key, t.tableoid AS leaf
				FROM %4$s t CROSS JOIN LATERAL (SELECT %5$s AS has) h) s
			LEFT JOIN (SELECT DISTINCT w.key FROM distilface.queue w WHERE w.pipeline = $1) q ON q.key = s.key
			LEFT JOIN (SELECT w.key, w.relation FROM distilface.failed_rows w WHERE w.pipeline = $1) f
				ON f.key = s.key AND f.relation IN (s.leaf, $3)) s',
		p.source, p.revision, distilface.row_key(p), p.relation, distilface.has_vector(p))
		INTO counts USING p.id, p.form = 'queue', p.relation::oid;
	RETURN counts;
END
$$;

-- The failures that are still some, see distilface.failing.
CREATE FUNCTION distilface.owner_failing(target regclass, args jsonb) RETURNS jsonb
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
	RETURN (SELECT coalesce(jsonb_agg(jsonb_build_object('relation', g.relation::oid, 'key', g.key)), '[]')
		FROM distilface.describe(owner_failing.target) d CROSS JOIN LATERAL distilface.failing(d) g
		WHERE d.id = (args ->> 'pipeline')::integer);
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

-- Where a table cannot be read, all that was noted about it stands.
CREATE FUNCTION distilface.failures_of(pipeline integer, relation regclass)
	RETURNS SETOF distilface.failed_rows
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	failing jsonb;
BEGIN
	IF NOT EXISTS (SELECT FROM distilface.failed_rows f WHERE f.pipeline = failures_of.pipeline) THEN
		RETURN;
	END IF;
	BEGIN
		failing := distilface.as_owner(relation, 'owner_failing', jsonb_build_object('pipeline', pipeline));
	EXCEPTION WHEN OTHERS THEN
		NULL;
	END;
	RETURN QUERY SELECT f.* FROM distilface.failed_rows f WHERE f.pipeline = failures_of.pipeline
		AND (failing IS NULL OR EXISTS (SELECT FROM jsonb_to_recordset(failing) g(relation oid, key text)
			WHERE g.relation = f.relation AND g.key = f.key));
END
$$;

CREATE VIEW distilface.failures WITH (security_barrier) AS
	SELECT p.relation AS "table", f.pipeline, f.key, f.sqlstate, f.error, f.attempts, f.failed_at
	FROM distilface.pipelines p
	JOIN pg_catalog.pg_class c ON c.oid = p.relation
	CROSS JOIN LATERAL distilface.failures_of(p.id, p.relation) f
	WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE');
GRANT SELECT ON distilface.failures TO PUBLIC;
COMMENT ON VIEW distilface.failures IS 'rows that could not be embedded, with their error';
