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
	build_index CONSTANT text := coalesce(args ->> 'build_index', 'after');
	index_options CONSTANT text := args ->> 'index_options';
	into_name text := args ->> 'target';
	table_name CONSTANT text := (SELECT relname FROM pg_class WHERE oid = owner_install.target);
	schema_name CONSTANT text := (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid = owner_install.target);
	known distilface.pipeline;
	model_name text;
	model_revision text;
	model_source text;
	model_kind text;
	dims integer;
	described record;
	keys text[] := '{}';
	types text[] := '{}';
	chunk_keys text[];
	holds_vectors boolean;
	new_id integer;
	chunk_table regclass;
	adds_target boolean := true;
	trigger_name text;
BEGIN
	SELECT c.relkind, c.relowner, c.relpersistence, c.relforcerowsecurity, a.attname, a.attgenerated,
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
	ELSIF described.relpersistence = 't' AND chunked THEN
		RAISE EXCEPTION 'a temporary table cannot have a table of chunks' USING ERRCODE = 'wrong_object_type',
			HINT = 'Leave chunk_tokens out, or call distilface_chunk yourself.';
	ELSIF described.attgenerated = 'v' THEN
		RAISE EXCEPTION 'column "%" is a virtual generated column, whose changes no trigger sees', source
			USING ERRCODE = 'feature_not_supported',
			HINT = 'Make it a stored one and use form => ''queue'', or vectorize a plain column.';
	ELSIF described.attgenerated <> '' AND (form = 'generated' OR form = 'trigger' AND NOT chunked) THEN
		RAISE EXCEPTION 'column "%" is generated after the trigger has seen the row', source
			USING ERRCODE = 'feature_not_supported',
			HINT = 'Use form => ''queue'', or chunk_tokens.';
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
	ELSIF EXISTS (SELECT FROM pg_partition_tree(owner_install.target) t JOIN pg_class c ON c.oid = t.relid
			WHERE c.relowner <> described.relowner) THEN
		RAISE EXCEPTION 'table % has partitions of other owners', owner_install.target
			USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = 'A pipeline works as the owner of the table.',
			HINT = 'ALTER TABLE ... OWNER TO gives a partition another owner.';
	ELSIF EXISTS (SELECT FROM pg_inherits WHERE inhparent = owner_install.target) AND described.relkind = 'r' THEN
		RAISE EXCEPTION 'table % has children by inheritance', owner_install.target
			USING ERRCODE = 'feature_not_supported',
			HINT = 'Vectorize each table, or use declarative partitions.';
	END IF;

	SELECT m.name, m.revision, m.dimensions, m.source, m.kind
		INTO model_name, model_revision, dims, model_source, model_kind
		FROM distilface.models m
		WHERE CASE WHEN (args ->> 'model') IS NULL THEN m.is_default ELSE m.name = args ->> 'model' END;
	IF model_name IS NULL THEN
		RAISE EXCEPTION 'model "%" does not exist', args ->> 'model' USING ERRCODE = 'undefined_object',
			HINT = 'See distilface.models for the loaded ones. An alias is not enough: a pipeline is bound to one model.';
	ELSIF model_kind <> 'sentence encoder' THEN
		RAISE EXCEPTION 'model "%" is a cross-encoder, which does not embed', model_name
			USING ERRCODE = 'wrong_object_type',
			HINT = 'Name a sentence encoder of distilface.models; rerank => in distilface_search takes cross-encoders.';
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
			IF known.source <> source OR known.form <> form OR chunked AND known.chunk_table IS NULL THEN
				RAISE EXCEPTION '"%" is filled from column "%" by form "%" already', into_name, known.source, known.form
					USING ERRCODE = 'duplicate_object',
					HINT = 'distilface_unvectorize ends that, or name another target.';
			ELSIF (args ->> 'model') IS NOT NULL AND known.model <> model_name THEN
				RAISE EXCEPTION '"%" is filled by model "%" already', into_name, known.model
					USING ERRCODE = 'duplicate_object',
					HINT = 'CALL distilface_revectorize(...) changes a model.';
			END IF;
			PERFORM distilface.resume(known, args, schema_name, dims);
			RETURN jsonb_build_object('pipeline', known.id);
		END IF;
	END LOOP;

	PERFORM distilface.check_index_options(schema_name, dims, index_options);
	IF chunked THEN
		-- What cannot be, before there is a table for it.
		PERFORM @extschema@.distilface_chunk('', (args ->> 'chunk_tokens')::integer,
			coalesce((args ->> 'chunk_overlap')::integer, 0), model_name);
	END IF;
	IF chunked OR form = 'queue' THEN
		SELECT k.names, k.types INTO keys, types FROM distilface.key_of(owner_install.target) k;
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
		chunk_keys := distilface.names_of_chunk_keys(keys);
		EXECUTE format('CREATE %7$s TABLE %1$I.%2$I (%3$s, seq integer NOT NULL, chunk text NOT NULL, tokens integer NOT NULL, start_char integer NOT NULL, end_char integer NOT NULL, e @extschema@.embedding(%4$s) NOT NULL, PRIMARY KEY (%5$s, seq), FOREIGN KEY (%5$s) REFERENCES %6$s (%8$s) ON DELETE CASCADE ON UPDATE CASCADE)',
			schema_name, into_name,
			(SELECT string_agg(format('%I %s NOT NULL', k.name, k.type), ', ' ORDER BY k.place)
				FROM unnest(chunk_keys, types) WITH ORDINALITY k(name, type, place)),
			dims, distilface.listed(chunk_keys), owner_install.target,
			CASE described.relpersistence WHEN 'u' THEN 'UNLOGGED' END, distilface.listed(keys));
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
		-- Vectors that nobody knows the model and the text of must not be mixed with ours.
		EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', owner_install.target);
		EXECUTE format('SELECT EXISTS (SELECT FROM %s t WHERE t.%I IS NOT NULL)', owner_install.target, into_name)
			INTO holds_vectors;
		IF holds_vectors THEN
			RAISE EXCEPTION 'column "%" of table % holds vectors already', into_name, owner_install.target
				USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'Whether they are of the present texts, and by this model, cannot be known.',
				HINT = format('UPDATE ... SET %1$I = NULL or drop the column first, or say target => ''another name''.', into_name);
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
		'index_options', index_options, 'filled', form = 'generated')) ->> 'pipeline')::integer;
	INSERT INTO distilface.activity (pipeline) VALUES (new_id);

	-- Row triggers fire in the order of their names, and ours must see what the others made.
	trigger_name := format('zz_distilface_%s', new_id);
	EXECUTE format('CREATE TRIGGER %I AFTER UPDATE OF %s ON %s FOR EACH ROW WHEN (false) EXECUTE FUNCTION distilface.pipeline_trigger(%L, ''columns'')',
		trigger_name || '_columns',
		distilface.listed(ARRAY[source] || CASE WHEN chunked THEN '{}' ELSE ARRAY[into_name] END || keys),
		owner_install.target, new_id);
	IF form <> 'generated' THEN
		EXECUTE format('CREATE TRIGGER %I %s INSERT OR UPDATE%s ON %s FOR EACH ROW EXECUTE FUNCTION distilface.pipeline_trigger(%L, %L, %L)',
			trigger_name, CASE WHEN form = 'trigger' AND NOT chunked THEN 'BEFORE' ELSE 'AFTER' END,
			CASE WHEN form = 'trigger' AND chunked AND described.relkind = 'p' THEN ' OR DELETE' END,
			owner_install.target, new_id,
			CASE WHEN form = 'trigger' THEN CASE WHEN chunked THEN 'chunk' ELSE 'embed' END
				ELSE CASE WHEN chunked THEN 'enqueue_chunks' ELSE 'enqueue' END END,
			model_name);
	END IF;
	-- A row that moves to another partition leaves its chunks before it comes with new ones.
	IF form = 'trigger' AND chunked AND described.relkind = 'p' THEN
		EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION distilface.pipeline_trigger(%L, ''move'')',
			trigger_name || '_move', owner_install.target, new_id);
	END IF;
	IF build_index = 'before' OR (form = 'generated' AND build_index = 'after') THEN
		PERFORM distilface.build_index(p) FROM distilface.describe(owner_install.target) p WHERE p.id = new_id;
	END IF;
	RETURN jsonb_build_object('pipeline', new_id);
END
$$;

-- Takes what a repeated call says about a pipeline's index while there is none; what is left out stays as
-- it is, and all else is settled.
CREATE FUNCTION distilface.resume(known distilface.pipeline, args jsonb, schema_name text, dims integer) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	other text;
	was text;
BEGIN
	SELECT a.name, a.was INTO other, was FROM (VALUES
			(1, 'chunk_tokens', known.chunk_tokens::text, args ->> 'chunk_tokens'),
			(2, 'chunk_overlap', coalesce(known.chunk_overlap, 0)::text, args ->> 'chunk_overlap'),
			(3, 'build_index', known.build_index, args ->> 'build_index'),
			(4, 'index_options', known.index_options, args ->> 'index_options')) a(place, name, was, asked)
		WHERE regexp_replace(a.asked, '\s+', '', 'g') <> regexp_replace(coalesce(a.was, ''), '\s+', '', 'g')
			AND NOT (a.place > 2 AND NOT known.filled AND NOT known.made_index)
		ORDER BY a.place LIMIT 1;
	IF other IS NOT NULL THEN
		RAISE EXCEPTION '"%" has another % already', known.name, other
			USING ERRCODE = 'duplicate_object',
			DETAIL = format('It was made with %s.', coalesce(quote_literal(nullif(was, '')), 'none')),
			HINT = CASE WHEN other LIKE 'chunk%' THEN 'Leave it out to go on. distilface_unvectorize ends the pipeline, so that it can be made anew.'
				ELSE 'Leave it out to go on. CREATE INDEX makes another index; distilface_unvectorize ends the pipeline.' END;
	END IF;
	IF NOT known.filled AND NOT known.made_index THEN
		PERFORM distilface.check_index_options(schema_name, dims, args ->> 'index_options');
		PERFORM distilface.as_keeper(known.relation, 'keeper_mark', jsonb_build_object('pipeline', known.id,
			'build_index', args ->> 'build_index', 'index_options', args ->> 'index_options'));
		IF (args ->> 'build_index') = 'before' THEN
			PERFORM distilface.build_index(p) FROM distilface.describe(known.relation) p WHERE p.id = known.id;
		END IF;
	END IF;
END
$$;

-- Refuses options that no index could be built with, by building one of nothing.
CREATE FUNCTION distilface.check_index_options(schema_name text, dims integer, options text) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	probe CONSTANT text := format('%I.%I', schema_name, 'distilface_probe_' || pg_backend_pid());
BEGIN
	IF coalesce(options, '') = '' THEN
		RETURN;
	ELSIF options !~ '^\s*\w+\s*=\s*(\w+|''[^''\\]*'')\s*(,\s*\w+\s*=\s*(\w+|''[^''\\]*'')\s*)*$' THEN
		RAISE EXCEPTION 'index_options cannot be "%"', options USING ERRCODE = 'invalid_parameter_value',
			HINT = 'They are what stands between the parentheses of WITH, such as ''m = 24, ef_construction = 128''.';
	END IF;
	EXECUTE format('CREATE UNLOGGED TABLE %s (e @extschema@.embedding(%s))', probe, dims);
	EXECUTE format('CREATE INDEX ON %s USING distilface_hnsw (e @extschema@.embedding_cosine_ops) WITH (%s)', probe, options);
	EXECUTE format('DROP TABLE %s', probe);
END
$$;

-- What the key's columns are called beside a table of chunks' own.
CREATE FUNCTION distilface.names_of_chunk_keys(keys text[]) RETURNS text[]
	LANGUAGE plpgsql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	taken text[] := ARRAY['seq', 'chunk', 'tokens', 'start_char', 'end_char', 'e'] || keys;
	names text[] := keys;
BEGIN
	FOR i IN 1 .. cardinality(keys) LOOP
		IF array_position(taken, keys[i]) <= 6 THEN
			WHILE names[i] = ANY (taken) LOOP
				names[i] := 'key_' || names[i];
			END LOOP;
			taken := taken || names[i];
		END IF;
	END LOOP;
	RETURN names;
END
$$;

CREATE FUNCTION distilface.listed(names text[]) RETURNS text LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$ SELECT string_agg(quote_ident(n.name), ', ' ORDER BY n.place) FROM unnest(names) WITH ORDINALITY n(name, place) $$;

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

-- Refuses an argument that says nothing.
CREATE FUNCTION distilface.require(argument text, value text, hint text) RETURNS void
	LANGUAGE plpgsql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF value IS NULL THEN
		RAISE EXCEPTION '% must not be NULL', argument USING ERRCODE = 'null_value_not_allowed', HINT = hint;
	ELSIF value = '' THEN
		RAISE EXCEPTION '% must not be empty', argument USING ERRCODE = 'invalid_parameter_value', HINT = hint;
	END IF;
END
$$;

CREATE FUNCTION distilface.install(target regclass, args jsonb) RETURNS integer
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
	PERFORM distilface.require('"table"', target::text, 'Name a table.'),
		distilface.require('source', args ->> 'source', 'Name the column of text.'),
		distilface.require('form', args ->> 'form', 'Forms are generated, trigger and queue.'),
		distilface.require('target', coalesce(args ->> 'target', '-'), 'Leave it out, or name a column or table.');
	IF (args ->> 'chunk_tokens') IS NULL AND (args ->> 'chunk_overlap')::integer <> 0 THEN
		RAISE EXCEPTION 'chunk_overlap goes with chunk_tokens' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Say how long the chunks are by chunk_tokens => ..., or leave chunk_overlap out.';
	END IF;
	IF args ->> 'form' = 'generated' THEN
		RAISE NOTICE 'table % is rewritten once, and nobody can use it meanwhile', target
			USING HINT = 'The forms trigger and queue fill a table while it is in use.';
	END IF;
	RETURN (distilface.as_owner(target, 'owner_install', args) ->> 'pipeline')::integer;
END
$$;

CREATE PROCEDURE distilface_vectorize("table" regclass, source text, target text DEFAULT NULL,
	form text DEFAULT 'trigger', model text DEFAULT NULL, chunk_tokens integer DEFAULT NULL,
	chunk_overlap integer DEFAULT NULL, build_index text DEFAULT NULL, index_options text DEFAULT NULL,
	backfill boolean DEFAULT true)
	LANGUAGE plpgsql
AS $$
DECLARE
	pipeline integer;
	look boolean := true;
	done boolean;
	ended boolean;
	wait double precision;
	error pg_catalog.jsonb;
BEGIN
	PERFORM distilface.require_no_block('distilface_vectorize');
	PERFORM distilface.require('backfill', backfill::pg_catalog.text, 'It is true or false.');
	-- Fails at once where nothing can be committed, as inside a function.
	COMMIT;
	pipeline := distilface.install("table", pg_catalog.jsonb_build_object('source', source, 'target', target,
		'form', form, 'model', model, 'chunk_tokens', chunk_tokens, 'chunk_overlap', chunk_overlap,
		'build_index', build_index, 'index_options', index_options));
	PERFORM distilface.wake_worker();
	COMMIT;
	LOOP
		EXIT WHEN NOT backfill;
		SELECT s.filled, s.gone, s.pause, s.error INTO done, ended, wait, error
			FROM distilface.attempt(pipeline, look) s;
		COMMIT;
		PERFORM distilface.require_success(error, ended);
		look := false;
		EXIT WHEN done;
		PERFORM pg_catalog.pg_sleep(wait);
	END LOOP;
END
$$;
COMMENT ON PROCEDURE distilface_vectorize(regclass, text, text, text, text, integer, integer, text, text, boolean)
	IS 'keeps a table''s text embedded; calling it again resumes';
