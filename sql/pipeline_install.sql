-- Making a pipeline: what distilface_vectorize does before there are rows to embed.

-- Makes a pipeline, or finds the one that is there already.
CREATE FUNCTION distilface.owner_install(target regclass, args jsonb) RETURNS jsonb
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	source CONSTANT text := args ->> 'source';
	form CONSTANT text := args ->> 'form';
	chunked CONSTANT boolean := (args ->> 'chunk_tokens') IS NOT NULL;
	build_index CONSTANT text := args ->> 'build_index';
	into_name text := args ->> 'target';
	table_name CONSTANT text := (SELECT relname FROM pg_class WHERE oid = owner_install.target);
	schema_name CONSTANT text := (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid = owner_install.target);
	known distilface.pipeline;
	model_name text;
	model_revision text;
	model_source text;
	dims integer;
	described record;
	keys text[] := '{}';
	types text[] := '{}';
	new_id integer;
	chunk_table regclass;
	adds_target boolean := true;
	trigger_name text;
BEGIN
	SELECT c.relkind, c.relpersistence, c.relforcerowsecurity, a.attname, a.attgenerated,
		coalesce(nullif(y.typbasetype, 0), y.oid) AS type INTO described
		FROM pg_class c
		LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = source AND a.attnum > 0 AND NOT a.attisdropped
		LEFT JOIN pg_type y ON y.oid = a.atttypid
		WHERE c.oid = owner_install.target;
	IF described.relkind NOT IN ('r', 'p') THEN
		RAISE EXCEPTION '"%" is not a table', table_name USING ERRCODE = 'wrong_object_type';
	ELSIF described.attname IS NULL THEN
		RAISE EXCEPTION 'column "%" of table % does not exist', source, owner_install.target
			USING ERRCODE = 'undefined_column';
	ELSIF NOT EXISTS (SELECT FROM pg_type y WHERE y.oid = described.type AND y.typcategory = 'S' AND y.typlen = -1) THEN
		RAISE EXCEPTION 'column "%" holds %, not text', source, format_type(described.type, NULL)
			USING ERRCODE = 'datatype_mismatch';
	ELSIF described.relpersistence = 't' AND form = 'queue' THEN
		RAISE EXCEPTION 'a temporary table cannot have a queue' USING ERRCODE = 'wrong_object_type',
			HINT = 'Use form => ''trigger''.';
	ELSIF described.relforcerowsecurity AND form <> 'generated' THEN
		RAISE EXCEPTION 'table % hides rows from its owner', owner_install.target
			USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = 'It has FORCE ROW LEVEL SECURITY, and a pipeline works as the owner.',
			HINT = 'ALTER TABLE ... NO FORCE ROW LEVEL SECURITY.';
	ELSIF form NOT IN ('generated', 'trigger', 'queue') THEN
		RAISE EXCEPTION 'unknown form "%"', form USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Forms are generated, trigger and queue.';
	ELSIF build_index NOT IN ('before', 'after', 'none') THEN
		RAISE EXCEPTION 'build_index cannot be "%"', build_index USING ERRCODE = 'invalid_parameter_value',
			HINT = 'It is before, after or none.';
	ELSIF chunked AND form = 'generated' THEN
		RAISE EXCEPTION 'a generated column cannot hold chunks' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Use form => ''trigger'' or ''queue'' with chunk_tokens.';
	ELSIF EXISTS (SELECT FROM pg_inherits WHERE inhparent = owner_install.target) AND described.relkind = 'r' THEN
		RAISE EXCEPTION 'table % has children by inheritance', owner_install.target
			USING ERRCODE = 'feature_not_supported',
			HINT = 'Vectorize each table, or use declarative partitions.';
	END IF;

	SELECT m.name, m.revision, m.dimensions, m.source INTO model_name, model_revision, dims, model_source
		FROM distilface.models m
		WHERE CASE WHEN (args ->> 'model') IS NULL THEN m.is_default ELSE m.name = args ->> 'model' END;
	IF model_name IS NULL THEN
		RAISE EXCEPTION 'model "%" does not exist', args ->> 'model' USING ERRCODE = 'undefined_object',
			HINT = 'See distilface.models for the loaded ones. An alias is not enough: a pipeline is bound to one model.';
	ELSIF form = 'generated' AND model_source <> 'built-in' THEN
		RAISE EXCEPTION 'a generated column takes built-in models only' USING ERRCODE = 'feature_not_supported',
			DETAIL = 'pg_dump computes generated columns anew while it restores, when loaded models are not there yet.',
			HINT = 'Use form => ''trigger''.';
	END IF;

	into_name := coalesce(into_name, CASE WHEN chunked THEN table_name || '_chunks' ELSE source || '_embedding' END);
	IF length(into_name::name) < length(into_name) THEN
		RAISE EXCEPTION 'name "%" is too long', into_name USING ERRCODE = 'name_too_long',
			HINT = 'Say target => ''a shorter name''.';
	END IF;

	-- Calling again resumes.
	FOR known IN SELECT * FROM distilface.describe(owner_install.target) LOOP
		IF known.name = into_name THEN
			IF known.source <> source OR known.form <> form OR (known.chunk_table IS NOT NULL) <> chunked THEN
				RAISE EXCEPTION '"%" is filled from column "%" by form "%" already', into_name, known.source, known.form
					USING ERRCODE = 'duplicate_object',
					HINT = 'distilface_unvectorize ends that, or name another target.';
			ELSIF (args ->> 'model') IS NOT NULL AND known.model <> model_name THEN
				RAISE EXCEPTION '"%" is filled by model "%" already', into_name, known.model
					USING ERRCODE = 'duplicate_object',
					HINT = 'CALL distilface_revectorize(...) changes a model.';
			END IF;
			RETURN jsonb_build_object('pipeline', known.id);
		END IF;
	END LOOP;

	IF chunked THEN
		-- What cannot be, before there is a table for it.
		PERFORM @extschema@.distilface_chunk('', (args ->> 'chunk_tokens')::integer,
			coalesce((args ->> 'chunk_overlap')::integer, 0), model_name);
	END IF;
	IF chunked OR form = 'queue' THEN
		SELECT array_agg(a.attname::text ORDER BY u.place),
			array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY u.place) INTO keys, types
			FROM (SELECT * FROM pg_index i
				WHERE i.indrelid = owner_install.target AND i.indisunique AND i.indisvalid AND i.indimmediate
					AND i.indpred IS NULL AND i.indexprs IS NULL
					AND NOT EXISTS (SELECT FROM unnest(i.indkey::smallint[]) WITH ORDINALITY n(attnum, place)
						JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = n.attnum
						WHERE n.place <= i.indnkeyatts AND NOT a.attnotnull)
				ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1) i
			CROSS JOIN LATERAL unnest(i.indkey::smallint[]) WITH ORDINALITY u(attnum, place)
			JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum
			WHERE u.place <= i.indnkeyatts;
		IF keys IS NULL THEN
			RAISE EXCEPTION 'table % has no key to know a row by', owner_install.target
				USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'Add a primary key (or a unique index over NOT NULL columns), or use form => ''trigger'' without chunks.';
		END IF;
	END IF;

	IF chunked THEN
		IF to_regclass(format('%I.%I', schema_name, into_name)) IS NOT NULL THEN
			RAISE EXCEPTION 'relation "%" already exists', into_name USING ERRCODE = 'duplicate_table',
				HINT = 'Say target => ''another name''.';
		END IF;
		EXECUTE format('CREATE TABLE %1$I.%2$I (%3$s, seq integer NOT NULL, chunk text NOT NULL, tokens integer NOT NULL, start_char integer NOT NULL, end_char integer NOT NULL, e @extschema@.embedding(%4$s) NOT NULL, PRIMARY KEY (%5$s, seq), FOREIGN KEY (%5$s) REFERENCES %6$s (%5$s) ON DELETE CASCADE ON UPDATE CASCADE)',
			schema_name, into_name,
			(SELECT string_agg(format('%I %s NOT NULL', k.name, k.type), ', ' ORDER BY k.place)
				FROM unnest(keys, types) WITH ORDINALITY k(name, type, place)),
			dims,
			(SELECT string_agg(quote_ident(k.name), ', ' ORDER BY k.place) FROM unnest(keys) WITH ORDINALITY k(name, place)),
			owner_install.target);
		chunk_table := format('%I.%I', schema_name, into_name)::regclass;
	ELSIF form = 'generated' THEN
		EXECUTE format('ALTER TABLE %s ADD COLUMN %I @extschema@.embedding(%s) GENERATED ALWAYS AS (@extschema@.distilface_embed(%I::text, %L)) STORED',
			owner_install.target, into_name, dims, source, model_name);
	ELSIF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = owner_install.target AND a.attname = into_name AND NOT a.attisdropped) THEN
		IF NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = owner_install.target AND a.attname = into_name
			AND a.atttypid = '@extschema@.embedding'::regtype AND a.atttypmod IN (-1, dims) AND a.attgenerated = '') THEN
			RAISE EXCEPTION 'column "%" is not of type embedding(%)', into_name, dims
				USING ERRCODE = 'datatype_mismatch',
				HINT = 'Say target => ''another name''.';
		END IF;
		adds_target := false;
	ELSE
		EXECUTE format('ALTER TABLE %s ADD COLUMN %I @extschema@.embedding(%s)', owner_install.target, into_name, dims);
	END IF;

	PERFORM distilface.keep_model(model_name);
	new_id := (distilface.as_keeper(owner_install.target, 'keeper_add', jsonb_build_object('form', form, 'model', model_name,
		'revision', model_revision, 'chunk_table', chunk_table::oid, 'chunk_tokens', (args ->> 'chunk_tokens')::integer,
		'chunk_overlap', CASE WHEN chunked THEN coalesce((args ->> 'chunk_overlap')::integer, 0) END,
		'replaces', (args ->> 'replaces')::integer, 'adds_target', adds_target, 'build_index', build_index,
		'index_options', args ->> 'index_options', 'filled', form = 'generated')) ->> 'pipeline')::integer;
	INSERT INTO distilface.activity (pipeline) VALUES (new_id);

	-- Row triggers fire in the order of their names, and ours must see what the others made.
	trigger_name := format('zz_distilface_%s', new_id);
	EXECUTE format('CREATE TRIGGER %I AFTER UPDATE OF %s ON %s FOR EACH ROW WHEN (false) EXECUTE FUNCTION distilface.pipeline_trigger(%L, ''columns'')',
		trigger_name || '_columns',
		(SELECT string_agg(quote_ident(c), ', ' ORDER BY place) FROM unnest(
			ARRAY[source] || CASE WHEN chunked THEN '{}' ELSE ARRAY[into_name] END || keys) WITH ORDINALITY n(c, place)),
		owner_install.target, new_id);
	IF form <> 'generated' THEN
		EXECUTE format('CREATE TRIGGER %I %s INSERT OR UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION distilface.pipeline_trigger(%L, %L, %L)',
			trigger_name, CASE WHEN form = 'trigger' AND NOT chunked THEN 'BEFORE' ELSE 'AFTER' END, owner_install.target, new_id,
			CASE WHEN form = 'trigger' THEN CASE WHEN chunked THEN 'chunk' ELSE 'embed' END
				ELSE CASE WHEN chunked THEN 'enqueue_chunks' ELSE 'enqueue' END END,
			model_name);
	END IF;
	IF build_index = 'before' OR (form = 'generated' AND build_index = 'after') THEN
		PERFORM distilface.build_index(p) FROM distilface.describe(owner_install.target) p WHERE p.id = new_id;
	END IF;
	RETURN jsonb_build_object('pipeline', new_id);
END
$$;

-- Builds a pipeline's index, unless its column has one.
CREATE FUNCTION distilface.build_index(p distilface.pipeline) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	relation CONSTANT regclass := coalesce(p.chunk_table, p.relation);
BEGIN
	-- CREATE INDEX alone lets a second one begin, and the worker may be here while a client is.
	EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', relation);
	IF EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
			JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
			WHERE i.indrelid = relation AND m.amname = 'distilface_hnsw' AND a.attname = p.target) THEN
		RETURN;
	END IF;
	EXECUTE format('CREATE INDEX ON %s USING distilface_hnsw (%I @extschema@.embedding_cosine_ops)%s', relation, p.target,
		' WITH (' || nullif(p.index_options, '') || ')');
	PERFORM distilface.as_keeper(p.relation, 'keeper_mark', jsonb_build_object('pipeline', p.id, 'made_index', true));
END
$$;

CREATE FUNCTION distilface.install(target regclass, args jsonb) RETURNS integer
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
	IF args ->> 'form' = 'generated' THEN
		RAISE NOTICE 'table % is rewritten once, and nobody can use it meanwhile', target
			USING HINT = 'The forms trigger and queue fill a table while it is in use.';
	END IF;
	RETURN (distilface.as_owner(target, 'owner_install', args) ->> 'pipeline')::integer;
END
$$;

CREATE PROCEDURE distilface_vectorize("table" regclass, source text, target text DEFAULT NULL,
	form text DEFAULT 'trigger', model text DEFAULT NULL, chunk_tokens integer DEFAULT NULL,
	chunk_overlap integer DEFAULT 0, build_index text DEFAULT 'after', index_options text DEFAULT NULL,
	backfill boolean DEFAULT true)
	LANGUAGE plpgsql
AS $$
DECLARE
	pipeline integer;
	done boolean;
	wait double precision;
BEGIN
	PERFORM distilface.require_no_block('distilface_vectorize');
	-- Fails at once where nothing can be committed, as inside a function.
	COMMIT;
	pipeline := distilface.install("table", pg_catalog.jsonb_build_object('source', source, 'target', target,
		'form', form, 'model', model, 'chunk_tokens', chunk_tokens, 'chunk_overlap', chunk_overlap,
		'build_index', build_index, 'index_options', index_options));
	PERFORM distilface.wake_worker();
	COMMIT;
	LOOP
		EXIT WHEN NOT backfill;
		SELECT s.filled, s.pause INTO done, wait FROM distilface.step(pipeline) s;
		COMMIT;
		EXIT WHEN done;
		PERFORM pg_catalog.pg_sleep(wait);
	END LOOP;
END
$$;
COMMENT ON PROCEDURE distilface_vectorize(regclass, text, text, text, text, integer, integer, text, text, boolean)
	IS 'keeps a table''s text embedded; calling it again resumes';
