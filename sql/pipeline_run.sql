-- Work of pipelines: filling tables, taking what waits, and who asks for it.
--
-- A step is one short transaction. It takes some keys from the queue and, where a table is not filled, the
-- next rows in the order of their places. Passes over a table go on until one statement finds no open row:
-- one that has a text and no vector, neither waits in the queue nor failed.

-- The next rows of a table that have a text and no vector, in the order of their places.
CREATE FUNCTION distilface.read_places(p distilface.pipeline, leaf regclass, after tid, bytes bigint,
		OUT keys text[], OUT tids tid[], OUT xmins xid[], OUT texts text[])
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET extra_float_digits = 3
	SET timezone = 'UTC' SET bytea_output = 'hex' SET lc_monetary = 'C'
	-- What is left is a TID range scan, which gives places in their order.
	SET enable_seqscan = off SET enable_indexscan = off SET enable_indexonlyscan = off
	SET enable_bitmapscan = off SET max_parallel_workers_per_gather = 0 SET synchronize_seqscans = off
AS $$
BEGIN
	EXECUTE format('SELECT array_agg(s.key), array_agg(s.tid), array_agg(s.xmin), array_agg(s.body)
		FROM (SELECT %3$s AS key, t.ctid AS tid, t.xmin, t.%1$I::text AS body, octet_length(t.%1$I) AS size,
				sum(octet_length(t.%1$I)) OVER (ROWS UNBOUNDED PRECEDING) AS upto
			FROM ONLY %2$s t WHERE t.ctid > $1 AND t.%1$I IS NOT NULL%4$s LIMIT 2048) s
		WHERE s.upto - s.size < $2',
		p.source, leaf,
		CASE WHEN cardinality(p.keys) > 0 THEN distilface.key_expression(p.keys, 't') ELSE 'NULL::text' END,
		CASE WHEN p.chunk_table IS NULL THEN format(' AND t.%I IS NULL', p.target) ELSE '' END)
		INTO keys, tids, xmins, texts USING after, bytes;
END
$$;

-- The tables that a pipeline's rows lie in, each with its copy of the trigger that holds the columns: a
-- partition that was detached and comes back has another.
CREATE FUNCTION distilface.leaves(pipeline integer, relation regclass, OUT leaf oid, OUT mark oid) RETURNS SETOF record
	LANGUAGE sql STABLE ROWS 10
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT c.oid, t.oid FROM (SELECT relation::oid AS oid UNION SELECT l.relid::oid FROM pg_partition_tree(relation) l) l
	JOIN pg_class c ON c.oid = l.oid AND c.relkind = 'r'
	JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgfoid = 'distilface.pipeline_trigger()'::regprocedure
		AND t.tgattr <> ''::int2vector
		AND t.tgargs = convert_to(pipeline::text, 'SQL_ASCII') || '\x00'::bytea || 'columns'::bytea || '\x00'::bytea
$$;

-- Whether a partition came since the table was filled.
CREATE FUNCTION distilface.has_new_leaf(pipeline integer, relation regclass) RETURNS boolean LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT EXISTS (SELECT FROM pg_class c WHERE c.oid = relation AND c.relkind = 'p')
		AND EXISTS (SELECT FROM distilface.leaves(has_new_leaf.pipeline, relation) l
			LEFT JOIN distilface.backfills b ON b.pipeline = has_new_leaf.pipeline AND b.relation = l.leaf AND b.mark = l.mark
			WHERE b.done IS NOT TRUE)
$$;

-- The first place of a table where a row lacks its vector, and neither waits in the queue nor failed.
-- One statement sees each row once, wherever updates move it: what it does not find is not there.
CREATE FUNCTION distilface.open_place(p distilface.pipeline, leaf regclass) RETURNS tid
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET extra_float_digits = 3
	SET timezone = 'UTC' SET bytea_output = 'hex' SET lc_monetary = 'C'
AS $$
DECLARE
	place tid;
BEGIN
	EXECUTE format('SELECT min(t.ctid) FROM ONLY %1$s t WHERE %2$s
			AND NOT EXISTS (SELECT FROM distilface.queue q WHERE q.pipeline = $1 AND q.key = %3$s)
			AND NOT EXISTS (SELECT FROM distilface.failed_rows f WHERE f.pipeline = $1 AND f.relation = $2 AND f.key = %3$s)',
		leaf, distilface.lacks_vector(p), distilface.row_key(p))
		INTO place USING p.id, CASE WHEN cardinality(p.keys) > 0 THEN p.relation ELSE leaf END;
	RETURN place;
END
$$;

-- The start of the page that a place lies on.
CREATE FUNCTION distilface.page_of(place tid) RETURNS tid LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$ SELECT format('(%s,0)', (place::text::point)[0]::bigint)::tid $$;

-- Where a filled table has open rows after all, it is to be filled again from there. Whether it has.
CREATE FUNCTION distilface.look_again(p distilface.pipeline) RETURNS boolean
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	part record;
	place tid;
	found_any boolean := false;
BEGIN
	FOR part IN SELECT l.leaf, l.mark FROM distilface.leaves(p.id, p.relation) l LOOP
		place := distilface.open_place(p, part.leaf);
		found_any := found_any OR place IS NOT NULL;
		INSERT INTO distilface.backfills AS b (pipeline, relation, mark, filenode, place, done)
			VALUES (p.id, part.leaf, part.mark, coalesce(pg_relation_filenode(part.leaf), 0),
				coalesce(distilface.page_of(place), '(0,0)'), place IS NULL)
			ON CONFLICT ON CONSTRAINT backfills_pkey DO UPDATE SET mark = excluded.mark, filenode = excluded.filenode,
				place = excluded.place, pass = 1, left_over = 0, done = excluded.done;
	END LOOP;
	IF found_any THEN
		PERFORM distilface.as_keeper(p.relation, 'keeper_mark', jsonb_build_object('pipeline', p.id, 'filled', false));
	END IF;
	RETURN found_any;
END
$$;

-- Fills a table in the order of its rows' places, which every table has. Rows written meanwhile are the
-- trigger's; a row that was locked, or that an update moved to a page that was passed, is taken in
-- another pass.
CREATE FUNCTION distilface.backfill(p distilface.pipeline, bytes bigint,
		OUT embedded bigint, OUT finished boolean, OUT pause double precision)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET lc_monetary = 'C'
AS $$
DECLARE
	state distilface.backfills;
	keys text[];
	tids tid[];
	xmins xid[];
	texts text[];
	next_place tid;
	open_places bigint[];
	settled bigint[];
BEGIN
	embedded := 0;
	finished := false;
	pause := 0;
	DELETE FROM distilface.backfills b WHERE b.pipeline = p.id AND NOT EXISTS (
		SELECT FROM distilface.leaves(p.id, p.relation) l WHERE l.leaf = b.relation AND l.mark = b.mark);
	WITH new AS (
		INSERT INTO distilface.backfills (pipeline, relation, mark, filenode)
			SELECT p.id, l.leaf, l.mark, coalesce(pg_relation_filenode(l.leaf), 0)
			FROM distilface.leaves(p.id, p.relation) l
			ON CONFLICT DO NOTHING RETURNING relation)
	-- Places that were noted before, as those of a table that was restored, say nothing of these rows.
	DELETE FROM distilface.failed_rows f USING new
		WHERE cardinality(p.keys) = 0 AND f.pipeline = p.id AND f.relation = new.relation;
	SELECT b.* INTO state FROM distilface.backfills b WHERE b.pipeline = p.id AND NOT b.done
		ORDER BY b.relation LIMIT 1 FOR UPDATE SKIP LOCKED;
	IF state.pipeline IS NULL THEN
		finished := NOT EXISTS (SELECT FROM distilface.backfills b WHERE b.pipeline = p.id AND NOT b.done);
		pause := CASE WHEN finished THEN 0 ELSE 0.2 END;
		RETURN;
	END IF;
	-- VACUUM FULL, CLUSTER and the like give rows other places.
	IF state.filenode <> pg_relation_filenode(state.relation) THEN
		state.filenode := pg_relation_filenode(state.relation);
		state.place := '(0,0)';
	END IF;
	-- What came to a filled table is most often empty, or has its vectors.
	IF NOT p.filled OR state.pass > 1 OR state.place <> '(0,0)' THEN
		SELECT r.* INTO keys, tids, xmins, texts FROM distilface.read_places(p, state.relation, state.place, bytes) r;
	END IF;
	IF tids IS NULL THEN
		next_place := distilface.open_place(p, state.relation);
		pause := CASE WHEN state.left_over > 0 AND next_place IS NOT NULL THEN least(0.1 * state.pass, 5) ELSE 0 END;
		UPDATE distilface.backfills b SET done = next_place IS NULL, filenode = state.filenode, left_over = 0,
				place = coalesce(distilface.page_of(next_place), '(0,0)'), pass = b.pass + 1
			WHERE b.pipeline = p.id AND b.relation = state.relation;
		finished := NOT EXISTS (SELECT FROM distilface.backfills b WHERE b.pipeline = p.id AND NOT b.done);
		RETURN;
	END IF;
	-- Bad rows wait for distilface_retry; a row that has chunks was done before.
	EXECUTE format('SELECT array_agg(u.place) FROM unnest($1, $2) WITH ORDINALITY u(key, tid, place)
		WHERE NOT EXISTS (SELECT FROM distilface.failed_rows f WHERE f.pipeline = $3 AND f.key = coalesce(u.key, u.tid::text)
			AND f.relation = CASE WHEN u.key IS NULL THEN $4 ELSE $5 END)%s',
		CASE WHEN p.chunk_table IS NULL THEN '' ELSE format(' AND NOT EXISTS (SELECT FROM %s c WHERE %s)', p.chunk_table,
			distilface.key_condition(p.chunk_table, p.chunk_keys, p.key_types, 'c', 'u.key')) END)
		INTO open_places USING keys, tids, p.id, state.relation, p.relation::oid;
	settled := distilface.write_good_rows(p, state.relation,
		ARRAY(SELECT keys[i] FROM unnest(open_places) i), ARRAY(SELECT tids[i] FROM unnest(open_places) i),
		ARRAY(SELECT xmins[i] FROM unnest(open_places) i), ARRAY(SELECT texts[i] FROM unnest(open_places) i));
	embedded := cardinality(settled);
	UPDATE distilface.backfills b
		SET place = tids[cardinality(tids)], filenode = state.filenode,
			left_over = b.left_over + coalesce(cardinality(open_places), 0) - embedded
		WHERE b.pipeline = p.id AND b.relation = state.relation;
END
$$;

-- Rows that failed, are still there and have no vector yet. In the queue form a row keeps the vector of
-- its former text, and what came to be right has left the list.
CREATE FUNCTION distilface.failing(p distilface.pipeline, OUT relation regclass, OUT key text) RETURNS SETOF record
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET extra_float_digits = 3
	SET timezone = 'UTC' SET bytea_output = 'hex' SET lc_monetary = 'C'
AS $$
DECLARE
	found text;
BEGIN
	IF NOT EXISTS (SELECT FROM distilface.failed_rows f WHERE f.pipeline = p.id) THEN
		RETURN;
	END IF;
	-- A key that the pipeline needs is looked up; another may have changed since, and places are those of
	-- before a restore where the table has no mark yet.
	found := CASE WHEN distilface.has_own_keys(p) THEN
			distilface.key_condition(p.relation, p.keys, p.key_types, 't', 'f.key')
		WHEN cardinality(p.keys) > 0 THEN
			format('f.key = %s AND f.relation = %s', distilface.row_key(p), p.relation::oid)
		ELSE format('f.key = %s AND f.relation = t.tableoid AND EXISTS (SELECT FROM distilface.backfills b
				WHERE b.pipeline = $1 AND b.relation = f.relation)', distilface.row_key(p)) END;
	RETURN QUERY EXECUTE format('SELECT f.relation, f.key FROM distilface.failed_rows f WHERE f.pipeline = $1
			AND EXISTS (SELECT FROM %s t WHERE %s AND %s)',
		p.relation, found,
		CASE p.form WHEN 'queue' THEN format('t.%I IS NOT NULL', p.source) ELSE distilface.lacks_vector(p) END)
		USING p.id;
END
$$;

-- Failures of rows that were mended or deleted are none.
CREATE FUNCTION distilface.tidy_failures(p distilface.pipeline) RETURNS void LANGUAGE sql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	DELETE FROM distilface.failed_rows f WHERE f.pipeline = p.id
		AND NOT EXISTS (SELECT FROM distilface.failing(p) g WHERE g.relation = f.relation AND g.key = f.key)
$$;

-- With rows out of the owner's sight, a changed row would look like a deleted one.
CREATE FUNCTION distilface.require_sight(p distilface.pipeline) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	hidden regclass;
BEGIN
	SELECT r.oid::regclass INTO hidden FROM (SELECT p.relation::oid AS oid UNION SELECT p.chunk_table::oid
			UNION SELECT l.relid::oid FROM pg_partition_tree(p.relation) l) r
		WHERE row_security_active(r.oid) LIMIT 1;
	IF hidden IS NOT NULL THEN
		RAISE EXCEPTION 'table % hides rows from its owner', hidden
			USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = 'It has FORCE ROW LEVEL SECURITY, and a pipeline works as the owner.',
			HINT = 'ALTER TABLE ... NO FORCE ROW LEVEL SECURITY.';
	END IF;
END
$$;

-- One short transaction's worth of a pipeline's work. Where args say look, a filled table is looked
-- through for rows that lost their vector, or got none by a way that fires no trigger.
CREATE FUNCTION distilface.owner_step(target regclass, args jsonb) RETURNS jsonb
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	p distilface.pipeline;
	began CONSTANT timestamptz := clock_timestamp();
	-- About four bytes a token.
	bytes CONSTANT bigint := 4 * current_setting('distilface.backfill_batch_tokens')::bigint;
	per_second CONSTANT integer := current_setting('distilface.backfill_rows_per_second')::integer;
	queue record;
	fill record;
	filling boolean;
	again boolean := false;
	pause double precision := 0;
	written bigint := 0;
	seconds double precision;
BEGIN
	-- What is described stays as it is: a move to another model takes a lock that does not go with this one.
	EXECUTE format('LOCK TABLE ONLY %s IN ACCESS SHARE MODE', owner_step.target);
	SELECT d.* INTO p FROM distilface.describe(owner_step.target) d WHERE d.id = (args ->> 'pipeline')::integer;
	IF p.id IS NULL THEN
		RETURN '{"again": false, "pause": 0, "filled": true, "gone": true}';
	END IF;
	PERFORM distilface.require_sight(p);
	-- What the table's owner put off to the end of the transaction runs now, as the owner.
	SET CONSTRAINTS ALL IMMEDIATE;
	IF p.form <> 'generated' AND p.filled AND (args ->> 'look')::boolean THEN
		PERFORM distilface.tidy_failures(p);
		p.filled := NOT distilface.look_again(p);
	END IF;
	filling := p.form <> 'generated' AND (NOT p.filled OR distilface.has_new_leaf(p.id, p.relation));
	IF filling OR EXISTS (SELECT FROM distilface.queue q WHERE q.pipeline = p.id) THEN
		-- A model that is not to be had, or not for the owner, is no row's fault.
		PERFORM @extschema@.distilface_embed('', p.model);
	END IF;
	IF p.form = 'queue' OR p.chunk_table IS NOT NULL OR EXISTS (SELECT FROM distilface.queue q WHERE q.pipeline = p.id) THEN
		SELECT q.* INTO queue FROM distilface.work_queue(p, bytes) q;
		written := queue.embedded;
		again := queue.claimed > 0;
		-- Whoever has the rows locked needs time.
		pause := CASE WHEN queue.claimed > 0 AND queue.embedded = 0 THEN 0.1 ELSE 0 END;
	END IF;
	IF filling THEN
		again := true;
		SELECT f.* INTO fill FROM distilface.backfill(p, bytes) f;
		written := written + fill.embedded;
		pause := greatest(fill.pause, pause);
		IF fill.finished AND NOT p.filled THEN
			IF p.build_index = 'after' AND NOT p.made_index THEN
				PERFORM distilface.build_index(p);
			END IF;
			PERFORM distilface.as_keeper(p.relation, 'keeper_mark', jsonb_build_object('pipeline', p.id, 'filled', true));
			p.filled := true;
		END IF;
		IF fill.finished THEN
			again := p.form = 'queue';
		END IF;
		IF per_second > 0 THEN
			pause := greatest(pause, fill.embedded / per_second::double precision
				- extract(epoch FROM clock_timestamp() - began)::double precision);
		END IF;
	END IF;
	-- Elsewhere it is a look through the table.
	IF NOT again AND (filling OR distilface.has_own_keys(p)) THEN
		PERFORM distilface.tidy_failures(p);
	END IF;
	seconds := greatest(extract(epoch FROM clock_timestamp() - began)::double precision + pause, 1e-6);
	IF written > 0 THEN
		INSERT INTO distilface.activity AS a (pipeline, embedded, last_run, rows_per_second)
			VALUES (p.id, written, now(), written / seconds)
			ON CONFLICT ON CONSTRAINT activity_pkey DO UPDATE
				SET embedded = a.embedded + excluded.embedded, last_run = excluded.last_run,
					rows_per_second = excluded.rows_per_second * 0.3 + coalesce(a.rows_per_second, excluded.rows_per_second) * 0.7;
	END IF;
	RETURN jsonb_build_object('again', again, 'pause', pause, 'filled', p.filled, 'gone', false);
END
$$;

CREATE FUNCTION distilface.step(pipeline integer, look boolean DEFAULT false,
		OUT again boolean, OUT pause double precision, OUT filled boolean, OUT gone boolean)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	relation CONSTANT regclass := (SELECT p.relation FROM distilface.pipelines p WHERE p.id = step.pipeline);
	state jsonb;
BEGIN
	IF EXISTS (SELECT FROM pg_class c WHERE c.oid = relation) THEN
		state := distilface.as_owner(relation, 'owner_step', jsonb_build_object('pipeline', pipeline, 'look', look));
	END IF;
	again := coalesce((state ->> 'again')::boolean, false);
	pause := coalesce((state ->> 'pause')::double precision, 0);
	filled := coalesce((state ->> 'filled')::boolean, true);
	gone := coalesce((state ->> 'gone')::boolean, true);
END
$$;

-- The same where an error must not stop the rest: it becomes a note, and what the caller is told.
CREATE FUNCTION distilface.attempt(pipeline integer, look boolean DEFAULT false,
		OUT again boolean, OUT pause double precision, OUT filled boolean, OUT gone boolean, OUT error jsonb)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	state text;
	message text;
	detail text;
	hint text;
BEGIN
	SELECT s.again, s.pause, s.filled, s.gone INTO again, pause, filled, gone
		FROM distilface.step(attempt.pipeline, attempt.look) s;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	-- Only who may work on a table may note something about it.
	IF NOT EXISTS (SELECT FROM distilface.pipelines p JOIN pg_class c ON c.oid = p.relation
			WHERE p.id = attempt.pipeline AND pg_has_role(c.relowner, 'USAGE')) THEN
		RAISE;
	END IF;
	again := true;
	pause := 10;
	filled := false;
	gone := false;
	error := jsonb_build_object('pipeline', pipeline, 'state', state, 'message', message, 'detail', detail, 'hint', hint);
	PERFORM distilface.note_error(attempt.pipeline, message);
END
$$;

-- Raises what attempts came upon, where a pipeline is there to go on with.
CREATE FUNCTION distilface.require_success(error jsonb, gone boolean DEFAULT false) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
	IF gone THEN
		RAISE EXCEPTION 'the pipeline was ended meanwhile' USING ERRCODE = 'object_not_in_prerequisite_state',
			HINT = 'distilface_unvectorize and distilface_revectorize_abort do that, and so does a dropped table. See distilface.pipelines.';
	ELSIF error ->> 'detail' <> '' AND error ->> 'hint' <> '' THEN
		RAISE EXCEPTION '%', error ->> 'message'
			USING ERRCODE = error ->> 'state', DETAIL = error ->> 'detail', HINT = error ->> 'hint';
	ELSIF error ->> 'detail' <> '' THEN
		RAISE EXCEPTION '%', error ->> 'message' USING ERRCODE = error ->> 'state', DETAIL = error ->> 'detail';
	ELSIF error ->> 'hint' <> '' THEN
		RAISE EXCEPTION '%', error ->> 'message' USING ERRCODE = error ->> 'state', HINT = error ->> 'hint';
	ELSIF error IS NOT NULL THEN
		RAISE EXCEPTION '%', error ->> 'message' USING ERRCODE = error ->> 'state';
	END IF;
END
$$;

-- The same at the end of a run over some pipelines.
CREATE FUNCTION distilface.require_successes(errors jsonb[], pipelines integer[]) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
	IF cardinality(pipelines) = 1 THEN
		PERFORM distilface.require_success(errors[1]);
	ELSIF cardinality(errors) > 0 THEN
		RAISE EXCEPTION '% of % pipelines failed', cardinality(errors), cardinality(pipelines)
			USING ERRCODE = errors[1] ->> 'state',
			DETAIL = (SELECT string_agg(format('%s (pipeline %s): %s', d.relation, e ->> 'pipeline', e ->> 'message'), E'\n'
					ORDER BY d.id)
				FROM unnest(errors) e LEFT JOIN distilface.pipelines d ON d.id = (e ->> 'pipeline')::integer),
			HINT = 'The others went on. See last_error of distilface.progress.';
	END IF;
END
$$;

CREATE FUNCTION distilface.with_work() RETURNS integer[] LANGUAGE sql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT coalesce(array_agg(d.id ORDER BY d.id), '{}') FROM distilface.describe() d
	JOIN pg_class c ON c.oid = d.relation AND c.relpersistence <> 't'
	WHERE NOT d.filled OR EXISTS (SELECT FROM distilface.queue q WHERE q.pipeline = d.id)
		OR d.form <> 'generated' AND distilface.has_new_leaf(d.id, d.relation)
$$;

CREATE PROCEDURE distilface_run("table" regclass DEFAULT NULL)
	LANGUAGE plpgsql
AS $$
DECLARE
	pipeline integer;
	queue integer[];
	look boolean;
	more boolean;
	wait double precision;
	error pg_catalog.jsonb;
	errors pg_catalog.jsonb[];
BEGIN
	PERFORM distilface.require_no_block('distilface_run');
	COMMIT;
	queue := distilface.runnable("table");
	COMMIT;
	FOREACH pipeline IN ARRAY queue LOOP
		look := "table" IS NOT NULL;
		LOOP
			SELECT s.again, s.pause, s.error INTO more, wait, error FROM distilface.attempt(pipeline, look) s;
			COMMIT;
			IF error IS NOT NULL THEN
				errors := pg_catalog.array_append(errors, error);
				EXIT;
			END IF;
			EXIT WHEN NOT more;
			look := false;
			PERFORM pg_catalog.pg_sleep(wait);
		END LOOP;
	END LOOP;
	PERFORM distilface.require_successes(errors, queue);
END
$$;
COMMENT ON PROCEDURE distilface_run(regclass) IS
	'embeds what waits, of all tables that the caller owns or of one, which it looks through for rows without a vector';

CREATE FUNCTION distilface.runnable("table" regclass) RETURNS integer[] LANGUAGE sql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT coalesce(array_agg(d.id ORDER BY d.id), '{}') FROM distilface.describe("table") d
	JOIN pg_class c ON c.oid = d.relation
	WHERE pg_has_role(c.relowner, 'USAGE') OR "table" IS NOT NULL
$$;
