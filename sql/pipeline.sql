-- Tables that keep themselves embedded.
--
-- A pipeline is a row of distilface.pipelines and two triggers on its table. One acts (embeds, or
-- queues the row's key); the other never fires and holds the columns in its UPDATE OF list, where
-- PostgreSQL keeps them true through renames, partitions and dumps: source, target (not for chunks),
-- key columns. Functions named owner_… run as the table's owner, through distilface.as_owner; the
-- catalogs' row security then shows an owner what belongs to its tables and nothing else. Procedures
-- commit, so they can have no SET clause: they hold qualified calls and not one operator.

CREATE FUNCTION distilface.pipeline_trigger() RETURNS trigger
	AS 'MODULE_PATHNAME', 'distilface_pipeline_trigger_wrapper' LANGUAGE C;
CREATE FUNCTION distilface.as_owner(relation regclass, name text, args jsonb) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'distilface_as_owner_wrapper' LANGUAGE C VOLATILE STRICT;
CREATE FUNCTION distilface.as_keeper(relation regclass, name text, args jsonb) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'distilface_as_keeper_wrapper' LANGUAGE C VOLATILE STRICT;
CREATE FUNCTION distilface.wake_worker() RETURNS void
	AS 'MODULE_PATHNAME', 'distilface_wake_worker_wrapper' LANGUAGE C VOLATILE;
CREATE FUNCTION distilface.require_no_block(procedure text) RETURNS void
	AS 'MODULE_PATHNAME', 'distilface_require_no_block_wrapper' LANGUAGE C VOLATILE STRICT;
CREATE FUNCTION distilface.has_worker() RETURNS boolean
	AS 'MODULE_PATHNAME', 'distilface_has_worker_wrapper' LANGUAGE C VOLATILE;

-- What a pipeline is, with its columns as they are called now. No row where the table or a column of
-- it is gone.
CREATE TYPE distilface.pipeline AS (
	id integer, relation regclass, form text, model text, revision text, chunk_table regclass,
	chunk_tokens integer, chunk_overlap integer, replaces integer, adds_target boolean,
	build_index text, index_options text, made_index boolean, filled boolean,
	source text, target text, keys text[], key_types text[],
	-- What distilface_vectorize was given as target.
	name text,
	-- What the table of chunks calls the key's columns.
	chunk_keys text[]
);

-- A table of chunks refers to its table's key by a foreign key, which knows the columns of both, whatever
-- they are called. Where somebody dropped it, they are taken to have the same names.
CREATE FUNCTION distilface.chunk_keys(chunk_table regclass, relation regclass, attnums smallint[], names text[])
	RETURNS text[] LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT coalesce((
		SELECT (SELECT array_agg(a.attname::text ORDER BY k.place)
				FROM unnest(attnums) WITH ORDINALITY k(attnum, place)
				JOIN pg_attribute a ON a.attrelid = f.conrelid
					AND a.attnum = f.conkey[array_position(f.confkey, k.attnum)])
			FROM pg_constraint f
			WHERE f.contype = 'f' AND f.conrelid = chunk_table AND f.confrelid = relation
				AND f.confkey @> attnums AND f.confkey <@ attnums
			-- Ours is of the table's own key.
			ORDER BY EXISTS (SELECT FROM pg_constraint u WHERE u.conrelid = chunk_table AND u.contype = 'p'
				AND u.conkey @> f.conkey) DESC, f.oid LIMIT 1), names)
$$;

CREATE FUNCTION distilface.describe(target regclass DEFAULT NULL) RETURNS SETOF distilface.pipeline
	LANGUAGE sql STABLE ROWS 5
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT p.id, p.relation, p.form, p.model, p.revision, p.chunk_table, p.chunk_tokens,
		p.chunk_overlap, p.replaces, p.adds_target, p.build_index, p.index_options, p.made_index,
		p.filled, c.names[1],
		CASE WHEN p.chunk_table IS NULL THEN c.names[2] ELSE 'e' END,
		c.names[CASE WHEN p.chunk_table IS NULL THEN 3 ELSE 2 END:],
		c.types[CASE WHEN p.chunk_table IS NULL THEN 3 ELSE 2 END:],
		CASE WHEN p.chunk_table IS NULL THEN c.names[2] ELSE
			(SELECT k.relname::text FROM pg_class k WHERE k.oid = p.chunk_table) END,
		CASE WHEN p.chunk_table IS NOT NULL THEN distilface.chunk_keys(p.chunk_table, p.relation, c.attnums[2:], c.names[2:]) END
	FROM distilface.pipelines p
	JOIN pg_class r ON r.oid = p.relation
	JOIN pg_trigger t ON t.tgrelid = p.relation AND t.tgfoid = 'distilface.pipeline_trigger()'::regprocedure
		AND t.tgattr <> ''::int2vector
		AND t.tgargs = convert_to(p.id::text, 'SQL_ASCII') || '\x00'::bytea || 'columns'::bytea || '\x00'::bytea
	CROSS JOIN LATERAL (
		SELECT array_agg(a.attname::text ORDER BY u.place) AS names,
			array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY u.place) AS types,
			array_agg(u.attnum ORDER BY u.place) AS attnums
		FROM unnest(t.tgattr::smallint[]) WITH ORDINALITY u(attnum, place)
		JOIN pg_attribute a ON a.attrelid = t.tgrelid AND a.attnum = u.attnum
	) c
	WHERE describe.target IS NULL OR p.relation = describe.target
	ORDER BY p.id
$$;
COMMENT ON FUNCTION distilface.describe(regclass) IS 'the pipelines of a table, with their columns';

-- The condition that finds a row of `alias` by `key`, the text of an array of texts. The operators
-- are those of a unique index over the key columns, whatever the search path and the types.
CREATE FUNCTION distilface.key_condition(relation regclass, keys text[], types text[], alias text, key text)
	RETURNS text LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT string_agg(format('%s.%I %s ((%s)::text[])[%s]::%s', alias, k.name,
		coalesce((SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
			FROM pg_index i
			JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = k.name
			CROSS JOIN LATERAL unnest(i.indkey::smallint[]) WITH ORDINALITY u(attnum, place)
			JOIN pg_opclass c ON c.oid = i.indclass[u.place - 1]
			JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3
				AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
			JOIN pg_operator o ON o.oid = m.amopopr
			JOIN pg_namespace n ON n.oid = o.oprnamespace
			WHERE i.indrelid = relation AND i.indisunique AND u.attnum = a.attnum AND u.place <= i.indnkeyatts
			LIMIT 1), 'OPERATOR(pg_catalog.=)'),
		key, k.place, k.type), ' AND ' ORDER BY k.place)
	FROM unnest(keys, types) WITH ORDINALITY k(name, type, place)
$$;

-- The text of a row's key.
CREATE FUNCTION distilface.key_expression(keys text[], alias text) RETURNS text LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'ARRAY[' || string_agg(format('%s.%I::text', alias, k.name), ', ' ORDER BY k.place) || ']::text'
	FROM unnest(keys) WITH ORDINALITY k(name, place)
$$;

-- Errors that say nothing about the row at hand: they end the step, and the row is tried again.
CREATE FUNCTION distilface.is_passing(state text) RETURNS boolean LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$ SELECT left(state, 2) IN ('08', '25', '40', '53', '57', '58', 'XX') OR state = '55P03' $$;

-- Embeds rows of one table and writes the vectors, unless a row changed since it was read (another
-- ctid or xmin) or somebody has it locked. Gives back the places of the rows that need nothing more.
CREATE FUNCTION distilface.write_rows(p distilface.pipeline, leaf regclass, keys text[], tids tid[],
		xmins xid[], texts text[])
	RETURNS bigint[]
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET enable_seqscan = off
	SET "distilface.on_overflow" = 'silent'
AS $$
DECLARE
	vectors @extschema@.embedding[];
	chunks text[];
	settled bigint[];
	own text[];
	seqs integer[];
	tokens integer[];
	starts integer[];
	ends integer[];
BEGIN
	IF p.chunk_table IS NULL THEN
		vectors := @extschema@.distilface_embed(texts, p.model);
		EXECUTE format('WITH locked AS MATERIALIZED (
				SELECT u.place, t.ctid AS tid, u.vector
				FROM unnest($1, $2, $3) WITH ORDINALITY u(tid, xmin, vector, place)
				JOIN ONLY %1$s t ON t.ctid = u.tid AND t.xmin = u.xmin
				FOR NO KEY UPDATE OF t SKIP LOCKED
			), written AS (
				UPDATE ONLY %1$s t SET %2$I = l.vector FROM locked l
				WHERE t.ctid = l.tid AND (l.vector IS NOT NULL OR t.%2$I IS NOT NULL)
			)
			SELECT array_agg(place) FROM locked', leaf, p.target)
			INTO settled USING tids, xmins, vectors;
		RETURN coalesce(settled, '{}');
	END IF;

	SELECT array_agg(k.key ORDER BY k.place, c.seq), array_agg(c.seq ORDER BY k.place, c.seq),
			array_agg(c.chunk ORDER BY k.place, c.seq), array_agg(c.tokens ORDER BY k.place, c.seq),
			array_agg(c.start_char ORDER BY k.place, c.seq), array_agg(c.end_char ORDER BY k.place, c.seq)
		INTO own, seqs, chunks, tokens, starts, ends
		FROM unnest(keys, texts) WITH ORDINALITY k(key, body, place)
		CROSS JOIN LATERAL @extschema@.distilface_chunk(k.body, p.chunk_tokens, p.chunk_overlap, p.model) c;
	vectors := @extschema@.distilface_embed(chunks, p.model);
	-- A row that is locked here cannot change its text before the transaction ends.
	EXECUTE format('WITH locked AS MATERIALIZED (
			SELECT u.place FROM unnest($1, $2) WITH ORDINALITY u(tid, xmin, place)
			JOIN ONLY %s t ON t.ctid = u.tid AND t.xmin = u.xmin
			FOR NO KEY UPDATE OF t SKIP LOCKED)
		SELECT array_agg(place) FROM locked', leaf)
		INTO settled USING tids, xmins;
	settled := coalesce(settled, '{}');
	EXECUTE format('DELETE FROM %s c USING unnest($1) WITH ORDINALITY k(key, place) WHERE k.place = ANY ($2) AND %s',
		p.chunk_table, distilface.key_condition(p.chunk_table, p.chunk_keys, p.key_types, 'c', 'k.key'))
		USING keys, settled;
	EXECUTE format('INSERT INTO %s (%s, seq, chunk, tokens, start_char, end_char, e)
		SELECT %s, k.seq, k.chunk, k.tokens, k.first, k.last, k.vector
		FROM unnest($1, $2, $3, $4, $5, $6, $7) k(key, seq, chunk, tokens, first, last, vector)
		WHERE k.vector IS NOT NULL AND k.key IN (SELECT s.key FROM unnest($8) WITH ORDINALITY s(key, place) WHERE s.place = ANY ($9))',
		p.chunk_table, distilface.listed(p.chunk_keys),
		(SELECT string_agg(format('((k.key)::text[])[%s]::%s', n.place, n.type), ', ' ORDER BY n.place)
			FROM unnest(p.key_types) WITH ORDINALITY n(type, place)))
		USING own, seqs, chunks, tokens, starts, ends, vectors, keys, settled;
	RETURN settled;
END
$$;

-- The same where a row may be a bad one: the rows are halved until it stands alone, and it is noted.
CREATE FUNCTION distilface.write_good_rows(p distilface.pipeline, leaf regclass, keys text[], tids tid[],
		xmins xid[], texts text[])
	RETURNS bigint[]
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	count CONSTANT integer := cardinality(tids);
	half CONSTANT integer := cardinality(tids) / 2;
	state text;
	message text;
BEGIN
	IF count = 0 THEN
		RETURN '{}';
	END IF;
	BEGIN
		RETURN distilface.write_rows(p, leaf, keys, tids, xmins, texts);
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
		IF distilface.is_passing(state) THEN
			RAISE;
		END IF;
	END;
	IF count = 1 THEN
		INSERT INTO distilface.failed_rows AS f (pipeline, relation, key, sqlstate, error)
			VALUES (p.id, CASE WHEN keys[1] IS NULL THEN leaf ELSE p.relation END, coalesce(keys[1], tids[1]::text), state, message)
			ON CONFLICT (pipeline, relation, key) DO UPDATE SET sqlstate = excluded.sqlstate,
				error = excluded.error, attempts = f.attempts + 1, failed_at = excluded.failed_at;
		UPDATE distilface.activity SET last_error = message, last_error_at = now() WHERE pipeline = p.id;
		RETURN '{1}';
	END IF;
	RETURN distilface.write_good_rows(p, leaf, keys[:half], tids[:half], xmins[:half], texts[:half])
		|| ARRAY(SELECT place + half FROM unnest(
			distilface.write_good_rows(p, leaf, keys[half + 1:], tids[half + 1:], xmins[half + 1:], texts[half + 1:])) place);
END
$$;

-- The current rows of some keys, each with the partition it lies in. Where one text alone exceeds the
-- bytes, it comes alone.
CREATE FUNCTION distilface.read_keys(p distilface.pipeline, keys text[], bytes bigint,
		OUT leaf regclass, OUT key text, OUT tid tid, OUT xmin xid, OUT body text, OUT within boolean)
	RETURNS SETOF record
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET extra_float_digits = 3
	SET enable_seqscan = off
AS $$
BEGIN
	RETURN QUERY EXECUTE format('SELECT s.leaf, s.key, s.tid, s.xmin, CASE WHEN s.upto - s.size < $2 THEN s.body END, s.upto - s.size < $2
		FROM (SELECT t.tableoid::regclass AS leaf, k.key, t.ctid AS tid, t.xmin, t.%1$I::text AS body,
				coalesce(octet_length(t.%1$I), 0) AS size,
				sum(coalesce(octet_length(t.%1$I), 0)) OVER (ORDER BY k.place) AS upto
			FROM unnest($1) WITH ORDINALITY k(key, place) JOIN %2$s t ON %3$s) s',
		p.source, p.relation, distilface.key_condition(p.relation, p.keys, p.key_types, 't', 'k.key'))
		USING keys, bytes;
END
$$;

-- Takes what waits in the queue: some keys with all their changes, each by the one who locks its
-- oldest change. The texts are read after that, so they are no older than the changes.
CREATE FUNCTION distilface.work_queue(p distilface.pipeline, bytes bigint, OUT claimed integer, OUT embedded bigint)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	changes bigint[];
	waiting text[];
	present text[] := '{}';
	settled text[] := '{}';
	part record;
	places bigint[];
BEGIN
	embedded := 0;
	SELECT array_agg(c.key) INTO waiting FROM (
		SELECT q.key FROM distilface.queue q
		WHERE q.pipeline = p.id AND NOT EXISTS (
			SELECT FROM distilface.queue o WHERE o.pipeline = q.pipeline AND o.key = q.key AND o.id < q.id)
		ORDER BY q.id LIMIT 256 FOR UPDATE OF q SKIP LOCKED) c;
	claimed := coalesce(cardinality(waiting), 0);
	IF claimed = 0 THEN
		RETURN;
	END IF;
	SELECT array_agg(c.id) INTO changes FROM (
		SELECT q.id FROM distilface.queue q WHERE q.pipeline = p.id AND q.key = ANY (waiting)
		FOR UPDATE SKIP LOCKED) c;
	FOR part IN SELECT r.leaf, array_agg(r.key) AS keys, array_agg(r.tid) AS tids, array_agg(r.xmin) AS xmins,
			array_agg(r.body) AS texts, r.within
			FROM distilface.read_keys(p, waiting, bytes) r GROUP BY r.leaf, r.within LOOP
		present := present || part.keys;
		IF part.within THEN
			places := distilface.write_good_rows(p, part.leaf, part.keys, part.tids, part.xmins, part.texts);
			embedded := embedded + cardinality(places);
			settled := settled || ARRAY(SELECT part.keys[i] FROM unnest(places) i);
		END IF;
	END LOOP;
	-- A row that is not there any more needs nothing.
	settled := settled || ARRAY(SELECT k FROM unnest(waiting) k EXCEPT SELECT k FROM unnest(present) k);
	DELETE FROM distilface.queue q WHERE q.id = ANY (changes) AND q.key = ANY (settled);
	DELETE FROM distilface.failed_rows f WHERE f.pipeline = p.id AND f.relation = p.relation AND f.key = ANY (settled)
		AND f.failed_at < now();
END
$$;

-- The next rows of a table that have a text and no vector, in the order of their places.
CREATE FUNCTION distilface.read_places(p distilface.pipeline, leaf regclass, after tid, bytes bigint,
		OUT keys text[], OUT tids tid[], OUT xmins xid[], OUT texts text[])
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET extra_float_digits = 3
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

-- Fills a table in the order of its rows' places, which every table has. Rows written meanwhile are the
-- trigger's; a row that was locked is taken in another pass.
CREATE FUNCTION distilface.backfill(p distilface.pipeline, bytes bigint,
		OUT embedded bigint, OUT finished boolean, OUT pause double precision)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	state distilface.backfills;
	batch record;
	open_places bigint[];
	settled bigint[];
BEGIN
	embedded := 0;
	finished := false;
	pause := 0;
	INSERT INTO distilface.backfills (pipeline, relation, filenode)
		SELECT p.id, l.oid, coalesce(pg_relation_filenode(l.oid), 0)
		FROM (SELECT p.relation::oid AS oid UNION SELECT t.relid::oid FROM pg_partition_tree(p.relation) t) l
		JOIN pg_class c ON c.oid = l.oid AND c.relkind = 'r'
		ON CONFLICT DO NOTHING;
	DELETE FROM distilface.backfills b WHERE b.pipeline = p.id AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = b.relation);
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
	SELECT r.* INTO batch FROM distilface.read_places(p, state.relation, state.place, bytes) r;
	IF batch.tids IS NULL THEN
		IF state.left_over = 0 THEN
			UPDATE distilface.backfills b SET done = true WHERE b.pipeline = p.id AND b.relation = state.relation;
		ELSE
			pause := least(0.1 * state.pass, 5);
			UPDATE distilface.backfills b SET place = '(0,0)', filenode = state.filenode, pass = b.pass + 1, left_over = 0
				WHERE b.pipeline = p.id AND b.relation = state.relation;
		END IF;
		RETURN;
	END IF;
	-- Bad rows wait for distilface_retry; a row that has chunks was done before.
	EXECUTE format('SELECT array_agg(u.place) FROM unnest($1, $2) WITH ORDINALITY u(key, tid, place)
		WHERE NOT EXISTS (SELECT FROM distilface.failed_rows f WHERE f.pipeline = $3 AND f.key = coalesce(u.key, u.tid::text)
			AND f.relation = CASE WHEN u.key IS NULL THEN $4 ELSE $5 END)%s',
		CASE WHEN p.chunk_table IS NULL THEN '' ELSE format(' AND NOT EXISTS (SELECT FROM %s c WHERE %s)', p.chunk_table,
			distilface.key_condition(p.chunk_table, p.chunk_keys, p.key_types, 'c', 'u.key')) END)
		INTO open_places USING batch.keys, batch.tids, p.id, state.relation, p.relation::oid;
	settled := distilface.write_good_rows(p, state.relation,
		ARRAY(SELECT batch.keys[i] FROM unnest(open_places) i), ARRAY(SELECT batch.tids[i] FROM unnest(open_places) i),
		ARRAY(SELECT batch.xmins[i] FROM unnest(open_places) i), ARRAY(SELECT batch.texts[i] FROM unnest(open_places) i));
	embedded := cardinality(settled);
	UPDATE distilface.backfills b
		SET place = batch.tids[cardinality(batch.tids)], filenode = state.filenode,
			left_over = b.left_over + coalesce(cardinality(open_places), 0) - embedded
		WHERE b.pipeline = p.id AND b.relation = state.relation;
END
$$;

-- One short transaction's worth of a pipeline's work.
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
	again boolean := false;
	pause double precision := 0;
	written bigint := 0;
	seconds double precision;
	now_filled boolean;
BEGIN
	SELECT d.* INTO p FROM distilface.describe(owner_step.target) d WHERE d.id = (args ->> 'pipeline')::integer;
	IF p.id IS NULL THEN
		RETURN '{"again": false, "pause": 0, "filled": true}';
	END IF;
	now_filled := p.filled;
	-- What the table's owner put off to the end of the transaction runs now, as the owner.
	SET CONSTRAINTS ALL IMMEDIATE;
	IF p.form = 'queue' OR p.chunk_table IS NOT NULL OR EXISTS (SELECT FROM distilface.queue q WHERE q.pipeline = p.id) THEN
		SELECT q.* INTO queue FROM distilface.work_queue(p, bytes) q;
		written := queue.embedded;
		again := queue.claimed > 0;
		-- Whoever has the rows locked needs time.
		pause := CASE WHEN queue.claimed > 0 AND queue.embedded = 0 THEN 0.1 ELSE 0 END;
	END IF;
	IF NOT p.filled THEN
		again := true;
		SELECT f.* INTO fill FROM distilface.backfill(p, bytes) f;
		written := written + fill.embedded;
		pause := greatest(fill.pause, pause);
		IF fill.finished THEN
			IF p.build_index = 'after' THEN
				PERFORM distilface.build_index(p);
			END IF;
			PERFORM distilface.as_keeper(p.relation, 'keeper_mark', jsonb_build_object('pipeline', p.id, 'filled', true));
			now_filled := true;
			again := p.form = 'queue';
		END IF;
		IF per_second > 0 THEN
			pause := greatest(pause, fill.embedded / per_second::double precision
				- extract(epoch FROM clock_timestamp() - began)::double precision);
		END IF;
	END IF;
	seconds := greatest(extract(epoch FROM clock_timestamp() - began)::double precision + pause, 1e-6);
	IF written > 0 THEN
		UPDATE distilface.activity a SET embedded = a.embedded + written, last_run = now(),
				rows_per_second = written / seconds * 0.3 + coalesce(a.rows_per_second, written / seconds) * 0.7
			WHERE a.pipeline = p.id;
	END IF;
	RETURN jsonb_build_object('again', again, 'pause', pause, 'filled', now_filled);
END
$$;

CREATE FUNCTION distilface.step(pipeline integer, OUT again boolean, OUT pause double precision, OUT filled boolean)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	relation CONSTANT regclass := (SELECT p.relation FROM distilface.pipelines p WHERE p.id = step.pipeline);
	state jsonb;
BEGIN
	IF EXISTS (SELECT FROM pg_class c WHERE c.oid = relation) THEN
		state := distilface.as_owner(relation, 'owner_step', jsonb_build_object('pipeline', pipeline));
	END IF;
	again := coalesce((state ->> 'again')::boolean, false);
	pause := coalesce((state ->> 'pause')::double precision, 0);
	filled := coalesce((state ->> 'filled')::boolean, true);
END
$$;

-- What the background worker calls: an error becomes a note and a rest.
CREATE FUNCTION distilface.attempt(pipeline integer, OUT again boolean, OUT pause double precision)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	message text;
BEGIN
	SELECT s.again, s.pause INTO again, pause FROM distilface.step(attempt.pipeline) s;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT;
	again := true;
	pause := 10;
	UPDATE distilface.activity a SET last_error = message, last_error_at = now() WHERE a.pipeline = attempt.pipeline;
END
$$;
REVOKE ALL ON FUNCTION distilface.attempt(integer) FROM PUBLIC;

CREATE FUNCTION distilface.with_work() RETURNS integer[] LANGUAGE sql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT coalesce(array_agg(d.id ORDER BY d.id), '{}') FROM distilface.describe() d
	JOIN pg_class c ON c.oid = d.relation AND c.relpersistence <> 't'
	WHERE NOT d.filled OR EXISTS (SELECT FROM distilface.queue q WHERE q.pipeline = d.id)
$$;

-- The chunk trigger: one row, at once.
CREATE FUNCTION distilface.refresh_now(pipeline integer, key text) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	p distilface.pipeline;
	part record;
BEGIN
	SELECT d.* INTO p FROM distilface.pipelines r CROSS JOIN LATERAL distilface.describe(r.relation) d
		WHERE r.id = refresh_now.pipeline AND d.id = r.id;
	FOR part IN SELECT * FROM distilface.read_keys(p, ARRAY[refresh_now.key], 1) LOOP
		PERFORM distilface.write_rows(p, part.leaf, ARRAY[part.key], ARRAY[part.tid], ARRAY[part.xmin], ARRAY[part.body]);
	END LOOP;
END
$$;

-- The same where a row goes from its partition: its key may come back in another.
CREATE FUNCTION distilface.drop_chunks(pipeline integer, key text) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off
AS $$
DECLARE
	p distilface.pipeline;
BEGIN
	SELECT d.* INTO p FROM distilface.pipelines r CROSS JOIN LATERAL distilface.describe(r.relation) d
		WHERE r.id = drop_chunks.pipeline AND d.id = r.id;
	EXECUTE format('DELETE FROM %s c WHERE %s', p.chunk_table,
		distilface.key_condition(p.chunk_table, p.chunk_keys, p.key_types, 'c', '$1')) USING drop_chunks.key;
END
$$;

CREATE PROCEDURE distilface_run("table" regclass DEFAULT NULL)
	LANGUAGE plpgsql
AS $$
DECLARE
	pipeline integer;
	more boolean;
	wait double precision;
	queue integer[];
BEGIN
	PERFORM distilface.require_no_block('distilface_run');
	COMMIT;
	queue := distilface.runnable("table");
	COMMIT;
	FOREACH pipeline IN ARRAY queue LOOP
		LOOP
			SELECT s.again, s.pause INTO more, wait FROM distilface.step(pipeline) s;
			COMMIT;
			EXIT WHEN NOT more;
			PERFORM pg_catalog.pg_sleep(wait);
		END LOOP;
	END LOOP;
END
$$;
COMMENT ON PROCEDURE distilface_run(regclass) IS 'embeds what waits, of one table or of all that the caller owns';

CREATE FUNCTION distilface.runnable("table" regclass) RETURNS integer[] LANGUAGE sql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT coalesce(array_agg(d.id ORDER BY d.id), '{}') FROM distilface.describe("table") d
	JOIN pg_class c ON c.oid = d.relation
	WHERE pg_has_role(c.relowner, 'USAGE') OR "table" IS NOT NULL
$$;
