-- The life of a pipeline: its bad rows, its end, and how well it finds.

-- Bad rows go back to what waits.
CREATE FUNCTION distilface.owner_retry(target regclass, args jsonb) RETURNS jsonb
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	p distilface.pipeline;
	retried bigint := 0;
	part bigint;
BEGIN
	FOR p IN SELECT * FROM distilface.describe(owner_retry.target) LOOP
		PERFORM distilface.tidy_failures(p);
		IF distilface.has_own_keys(p) THEN
			INSERT INTO distilface.queue (pipeline, key) SELECT p.id, f.key FROM distilface.failed_rows f WHERE f.pipeline = p.id;
			GET DIAGNOSTICS part = ROW_COUNT;
		ELSE
			DELETE FROM distilface.failed_rows f WHERE f.pipeline = p.id;
			GET DIAGNOSTICS part = ROW_COUNT;
			IF part > 0 AND p.filled THEN
				PERFORM distilface.look_again(p);
			ELSIF part > 0 THEN
				DELETE FROM distilface.backfills b WHERE b.pipeline = p.id;
			END IF;
		END IF;
		retried := retried + part;
	END LOOP;
	RETURN jsonb_build_object('rows', retried);
END
$$;

CREATE FUNCTION distilface_retry("table" regclass) RETURNS bigint
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
	PERFORM distilface.require('"table"', "table"::text, 'Name a table.');
	PERFORM distilface.wake_worker();
	RETURN (distilface.as_owner("table", 'owner_retry', '{}') ->> 'rows')::bigint;
END
$$;
COMMENT ON FUNCTION distilface_retry(regclass) IS 'puts failed rows back into the queue; distilface_run or the worker takes them';

-- Takes a pipeline away with all it added, or leaves the vectors as data.
CREATE FUNCTION distilface.owner_uninstall(target regclass, args jsonb) RETURNS jsonb
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	p distilface.pipeline;
	keep CONSTANT boolean := (args ->> 'keep_data')::boolean;
	made regclass;
	ended integer := 0;
BEGIN
	FOR p IN SELECT * FROM distilface.describe(owner_uninstall.target) d
		WHERE CASE WHEN args ? 'pipeline' THEN d.id = (args ->> 'pipeline')::integer
			ELSE (args ->> 'target') IS NULL
			OR (args ->> 'target') = d.name
			-- What was to replace it, too.
			OR d.replaces = (SELECT o.id FROM distilface.describe(owner_uninstall.target) o WHERE o.name = args ->> 'target') END LOOP
		PERFORM distilface.drop_triggers(p.id, p.relation);
		IF keep AND p.replaces IS NULL THEN
			IF p.form = 'generated' THEN
				EXECUTE format('ALTER TABLE %s ALTER COLUMN %I DROP EXPRESSION', p.relation, p.target);
			END IF;
		ELSIF p.chunk_table IS NOT NULL THEN
			EXECUTE format('DROP TABLE %s', p.chunk_table);
		ELSIF p.adds_target THEN
			EXECUTE format('ALTER TABLE %s DROP COLUMN %I', p.relation, p.target);
		ELSIF p.made_index THEN
			FOR made IN SELECT i.indexrelid::regclass FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
				JOIN pg_am m ON m.oid = c.relam JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
				WHERE i.indrelid = p.relation AND m.amname = 'distilface_hnsw' AND a.attname = p.target LOOP
				EXECUTE format('DROP INDEX %s', made);
			END LOOP;
		END IF;
		PERFORM distilface.as_keeper(p.relation, 'keeper_forget', jsonb_build_object('pipeline', p.id));
		ended := ended + 1;
	END LOOP;
	IF ended = 0 THEN
		RAISE EXCEPTION 'table % is not vectorized%', owner_uninstall.target, coalesce(format(' into "%s"', args ->> 'target'), '')
			USING ERRCODE = 'undefined_object', HINT = 'See distilface.pipelines.';
	END IF;
	RETURN jsonb_build_object('ended', ended);
END
$$;

CREATE FUNCTION distilface.drop_triggers(pipeline integer, relation regclass) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	name text;
BEGIN
	FOR name IN SELECT t.tgname FROM pg_trigger t WHERE t.tgrelid = relation AND t.tgparentid = 0
		AND t.tgfoid = 'distilface.pipeline_trigger()'::regprocedure
		AND position(convert_to(pipeline::text, 'SQL_ASCII') || '\x00'::bytea IN t.tgargs) = 1
		-- The one that holds the columns last: distilface.on_drop takes what is left then.
		ORDER BY t.tgattr <> ''::int2vector LOOP
		EXECUTE format('DROP TRIGGER %I ON %s', name, relation);
	END LOOP;
END
$$;

CREATE FUNCTION distilface_unvectorize("table" regclass, target text DEFAULT NULL, keep_data boolean DEFAULT false) RETURNS integer
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
	PERFORM distilface.require('"table"', "table"::text, 'Name a table.'),
		distilface.require('keep_data', keep_data::text, 'It is true or false.');
	RETURN (distilface.as_owner("table", 'owner_uninstall',
		jsonb_build_object('target', target, 'keep_data', keep_data)) ->> 'ended')::integer;
END
$$;
COMMENT ON FUNCTION distilface_unvectorize(regclass, text, boolean) IS 'ends a table''s pipelines and drops what they added';

-- A table or column that goes takes its pipelines along, whatever statement takes it: a DROP of its type,
-- schema or extension does, too.
CREATE FUNCTION distilface.on_drop() RETURNS event_trigger
	LANGUAGE plpgsql SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	gone record;
BEGIN
	FOR gone IN SELECT p.id, p.relation, c.oid IS NOT NULL AS has_table FROM distilface.pipelines p
		LEFT JOIN pg_class c ON c.oid = p.relation
		WHERE EXISTS (SELECT FROM pg_event_trigger_dropped_objects() d
			WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND d.objid IN (p.relation::oid, p.chunk_table::oid)
				OR d.object_type = 'trigger' AND d.address_names[3] = format('zz_distilface_%s_columns', p.id)
					AND (c.oid IS NULL OR c.oid = to_regclass(format('%I.%I', d.address_names[1], d.address_names[2]))))
		LOOP
		IF gone.has_table THEN
			PERFORM distilface.drop_triggers(gone.id, gone.relation);
		END IF;
		PERFORM distilface.forget(gone.id);
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION distilface.on_drop() FROM PUBLIC;
CREATE EVENT TRIGGER distilface_on_drop ON sql_drop EXECUTE FUNCTION distilface.on_drop();

-- A table's chunks belong to who owns the table: its trigger writes them with the owner's rights.
CREATE FUNCTION distilface.on_owner() RETURNS event_trigger
	LANGUAGE plpgsql SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	torn record;
BEGIN
	FOR torn IN SELECT p.relation, p.chunk_table, c.relowner::regrole AS owner, bool_or(d.objid = p.relation) AS follows
		FROM pg_event_trigger_ddl_commands() d
		JOIN distilface.pipelines p ON d.objid IN (p.relation, p.chunk_table)
		JOIN pg_class c ON c.oid = p.relation
		JOIN pg_class k ON k.oid = p.chunk_table
		WHERE d.classid = 'pg_class'::regclass AND k.relowner <> c.relowner
		GROUP BY 1, 2, 3 LOOP
		IF NOT torn.follows THEN
			RAISE EXCEPTION 'table % belongs to the owner of table %', torn.chunk_table, torn.relation
				USING ERRCODE = 'wrong_object_type', DETAIL = 'It holds the chunks of that table.',
				HINT = format('ALTER TABLE %s OWNER TO ... changes the owner of both.', torn.relation);
		END IF;
		EXECUTE format('ALTER TABLE %s OWNER TO %s', torn.chunk_table, torn.owner);
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION distilface.on_owner() FROM PUBLIC;
CREATE EVENT TRIGGER distilface_on_owner ON ddl_command_end WHEN tag IN ('ALTER TABLE')
	EXECUTE FUNCTION distilface.on_owner();

-- Retrieval measured from judgments: a table with the columns query, key (of the row, as text) and
-- gain (optional, 1 otherwise). nDCG takes the gain as it is and the discount log2(rank + 1), as
-- trec_eval does (Jarvelin and Kekalainen 2002). A row counts once, by its best chunk. The table is
-- read as its owner, and so are the judgments where the caller has their owner's rights.
CREATE FUNCTION distilface.evaluate(pipeline integer, judgments regclass, k integer,
		OUT queries bigint, OUT ndcg double precision, OUT recall double precision, OUT mrr double precision)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	relation CONSTANT regclass := (SELECT p.relation FROM distilface.pipelines p WHERE p.id = evaluate.pipeline);
	judged CONSTANT jsonb := distilface.judged(judgments, k);
	found jsonb;
BEGIN
	IF relation IS NULL THEN
		-- Gone meanwhile.
		RETURN;
	END IF;
	found := distilface.as_owner(relation, 'owner_found', jsonb_build_object('pipeline', pipeline, 'k', k,
		'queries', (SELECT jsonb_agg(DISTINCT j -> 'query') FROM jsonb_array_elements(judged) j)));
	WITH judged AS (
		SELECT j.* FROM jsonb_to_recordset(judged) j(query text, key text, gain double precision)
	), found AS (
		SELECT f.* FROM jsonb_to_recordset(found) f(query text, key text, rank bigint)
	), scored AS (
		SELECT a.query,
			coalesce((SELECT sum(j.gain / log(2, (f.rank + 1)::numeric)::float8 ORDER BY f.rank) FROM found f JOIN judged j USING (query, key) WHERE f.query = a.query), 0)
			/ (SELECT sum(i.gain / log(2, (i.rank + 1)::numeric)::float8 ORDER BY i.rank) FROM (
				SELECT j.gain, row_number() OVER (ORDER BY j.gain DESC) AS rank FROM judged j WHERE j.query = a.query) i WHERE i.rank <= evaluate.k) AS ndcg,
			(SELECT count(*) FROM found f JOIN judged j USING (query, key) WHERE f.query = a.query)::float8
			/ (SELECT count(*) FROM judged j WHERE j.query = a.query) AS recall,
			coalesce((SELECT max(1.0 / f.rank) FROM found f JOIN judged j USING (query, key) WHERE f.query = a.query), 0)::float8 AS mrr
		FROM (SELECT DISTINCT j.query FROM judged j) a)
	SELECT count(*), avg(s.ndcg), avg(s.recall), avg(s.mrr) INTO queries, ndcg, recall, mrr FROM scored s;
END
$$;

CREATE FUNCTION distilface.judged(judgments regclass, k integer) RETURNS jsonb
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
	IF judgments IS NULL OR k IS NULL THEN
		RAISE EXCEPTION 'retrieval is measured from judgments and a k' USING ERRCODE = 'null_value_not_allowed',
			HINT = 'SELECT * FROM distilface_eval(''table'', ''judgments'', 10).';
	ELSIF k NOT BETWEEN 1 AND 1000 THEN
		RAISE EXCEPTION 'k must be from 1 to 1000, got %', k USING ERRCODE = 'invalid_parameter_value',
			HINT = 'It is how many rows are looked at for each query; 10 is usual.';
	END IF;
	RETURN CASE WHEN (SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = judgments)
		THEN distilface.as_owner(judgments, 'owner_judged', '{}') ELSE distilface.owner_judged(judgments, '{}') END;
END
$$;

-- Judgments with a gain, as {query, key, gain}.
CREATE FUNCTION distilface.owner_judged(target regclass, args jsonb) RETURNS jsonb
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET extra_float_digits = 3
AS $$
DECLARE
	columns CONSTANT text[] := ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped);
	gain CONSTANT text := CASE WHEN 'gain' = ANY (columns) THEN 'j.gain' ELSE '1' END;
	bad record;
	judged jsonb;
BEGIN
	IF NOT columns @> '{query,key}' THEN
		RAISE EXCEPTION 'table % lacks a column query or key', target USING ERRCODE = 'undefined_column',
			HINT = 'Judgments are rows (query text, key of a row, gain real).';
	END IF;
	EXECUTE format('SELECT count(*) FILTER (WHERE j.query IS NULL OR j.key IS NULL) AS nameless,
			count(*) FILTER (WHERE j.query::text !~ ''[^[:space:]]'') AS blank,
			count(*) FILTER (WHERE (%s)::float8 IN (''NaN'', ''Infinity'', ''-Infinity'')) AS endless FROM %s j', gain, target) INTO bad;
	IF bad.nameless > 0 THEN
		RAISE EXCEPTION '% judgments have no query or no key', bad.nameless USING ERRCODE = 'null_value_not_allowed',
			HINT = format('DELETE FROM %s WHERE query IS NULL OR key IS NULL.', target);
	ELSIF bad.blank > 0 THEN
		RAISE EXCEPTION '% judgments have a blank query', bad.blank USING ERRCODE = 'invalid_parameter_value',
			DETAIL = 'A blank text has no vector, and nothing is near it.',
			HINT = format('DELETE FROM %s WHERE query !~ ''\S''.', target);
	ELSIF bad.endless > 0 THEN
		RAISE EXCEPTION '% judgments have a gain that is no finite number', bad.endless USING ERRCODE = 'invalid_parameter_value',
			HINT = 'A gain says how good the row is for the query: 1, or more for better ones; 0 is no match.';
	END IF;
	EXECUTE format('SELECT coalesce(jsonb_agg(j), ''[]'') FROM (
			SELECT j.query::text AS query, j.key::text AS key, max((%1$s)::float8) AS gain FROM %2$s j
			WHERE (%1$s) > 0 GROUP BY 1, 2) j', gain, target) INTO judged;
	RETURN judged;
END
$$;

-- The k nearest rows of each query, as {query, key, rank}.
CREATE FUNCTION distilface.owner_found(target regclass, args jsonb) RETURNS jsonb
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET extra_float_digits = 3
AS $$
DECLARE
	p distilface.pipeline;
	key text;
	found jsonb;
BEGIN
	SELECT d.* INTO p FROM distilface.describe(owner_found.target) d WHERE d.id = (args ->> 'pipeline')::integer;
	IF cardinality(p.keys) = 1 THEN
		key := (coalesce(p.chunk_keys, p.keys))[1];
	ELSE
		SELECT a.attname INTO key FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
			WHERE i.indrelid = p.relation AND i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL AND i.indexprs IS NULL
			ORDER BY i.indisprimary DESC, i.indexrelid LIMIT 1;
		IF p.chunk_table IS NOT NULL THEN
			key := p.chunk_keys[array_position(p.keys, key)];
		END IF;
	END IF;
	IF key IS NULL THEN
		RAISE EXCEPTION 'table % has no key of one column for judgments to name', p.relation
			USING ERRCODE = 'object_not_in_prerequisite_state';
	END IF;
	-- Of chunks, more are fetched than rows asked for: a row may bring several.
	EXECUTE format($query$
		SELECT coalesce(jsonb_agg(s), '[]') FROM (
			SELECT a.query, f.key, f.rank FROM jsonb_array_elements_text($2) a(query) CROSS JOIN LATERAL (
				SELECT b.key, row_number() OVER (ORDER BY min(b.place)) AS rank FROM (
					SELECT n.key, row_number() OVER () AS place FROM (
						SELECT t.%1$I::text AS key FROM %2$s t WHERE t.%3$I IS NOT NULL
						ORDER BY t.%3$I OPERATOR(@extschema@.<=>) @extschema@.distilface_embed_query(a.query, %4$L) LIMIT $1 * %5$s) n) b
				GROUP BY b.key ORDER BY rank LIMIT $1) f) s$query$,
		key, coalesce(p.chunk_table, p.relation), p.target, p.model,
		CASE WHEN p.chunk_table IS NULL THEN 1 ELSE 10 END)
		INTO found USING (args ->> 'k')::integer, coalesce(nullif(args -> 'queries', 'null'), '[]');
	RETURN found;
END
$$;

CREATE FUNCTION distilface.ndcg(pipeline integer, judgments regclass, k integer) RETURNS double precision LANGUAGE sql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$ SELECT e.ndcg FROM distilface.evaluate(pipeline, judgments, k) e $$;

CREATE FUNCTION distilface_eval("table" regclass, judgments regclass, k integer DEFAULT 10, target text DEFAULT NULL,
		OUT queries bigint, OUT ndcg double precision, OUT recall double precision, OUT mrr double precision)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	pipelines integer[];
	names text;
BEGIN
	SELECT array_agg(d.id) FILTER (WHERE CASE WHEN distilface_eval.target IS NULL THEN d.replaces IS NULL ELSE d.name = distilface_eval.target END),
			string_agg(quote_literal(d.name), ', ' ORDER BY d.id)
		INTO pipelines, names FROM distilface.describe("table") d;
	IF names IS NULL THEN
		RAISE EXCEPTION 'table % is not vectorized', coalesce("table"::text, 'NULL') USING ERRCODE = 'undefined_object',
			HINT = 'CALL distilface_vectorize(...) first. See distilface.pipelines.';
	ELSIF pipelines IS NULL THEN
		RAISE EXCEPTION 'table % is not vectorized into "%"', "table", distilface_eval.target USING ERRCODE = 'undefined_object',
			HINT = format('Say target => one of %s.', names);
	ELSIF cardinality(pipelines) > 1 THEN
		RAISE EXCEPTION 'table % has % pipelines to choose from', "table", cardinality(pipelines)
			USING ERRCODE = 'ambiguous_parameter', HINT = format('Say target => one of %s.', names);
	END IF;
	SELECT e.* INTO queries, ndcg, recall, mrr FROM distilface.evaluate(pipelines[1], judgments, k) e;
END
$$;
COMMENT ON FUNCTION distilface_eval(regclass, regclass, integer, text) IS 'nDCG, recall and MRR at k, from a table of judgments';
