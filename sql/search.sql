-- Hybrid search: one statement over the semantic and the lexical index of a table. The functions
-- write plain SQL and run it as the caller, so privileges and row-level security are the caller's;
-- distilface_search_sql shows what is run.

CREATE FUNCTION distilface.search_condition(target regclass, filter jsonb) RETURNS text
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	name text;
	value jsonb;
	op text;
	operand jsonb;
	type text;
	conditions text[] := '{}';
	ops CONSTANT jsonb := '{"eq": "=", "ne": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}';
BEGIN
	IF filter IS NULL THEN
		RETURN NULL;
	END IF;
	IF jsonb_typeof(filter) <> 'object' THEN
		RAISE EXCEPTION 'filter must be a JSON object, not %', jsonb_typeof(filter)
			USING ERRCODE = 'invalid_parameter_value',
			HINT = 'For example {"lang": "en", "year": {"gte": 2020}}.';
	END IF;
	FOR name, value IN SELECT e.key, e.value FROM jsonb_each(filter) e ORDER BY e.key LOOP
		SELECT format_type(a.atttypid, a.atttypmod) INTO type
			FROM pg_attribute a
			WHERE a.attrelid = target AND a.attname = name AND a.attnum > 0 AND NOT a.attisdropped;
		IF NOT FOUND THEN
			RAISE EXCEPTION 'column "%" of filter does not exist in %', name, target
				USING ERRCODE = 'undefined_column',
				HINT = format('Its columns are %s.', (SELECT string_agg(a.attname, ', ' ORDER BY a.attnum)
					FROM pg_attribute a WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped));
		END IF;
		IF jsonb_typeof(value) = 'null' THEN
			conditions := conditions || format('t.%I IS NULL', name);
		ELSIF jsonb_typeof(value) = 'array' THEN
			conditions := conditions || format('t.%I = ANY (%L::%s[])', name,
				ARRAY(SELECT jsonb_array_elements_text(value)), type);
		ELSIF jsonb_typeof(value) <> 'object' THEN
			conditions := conditions || format('t.%I = %L::%s', name, value #>> '{}', type);
		ELSE
			FOR op, operand IN SELECT e.key, e.value FROM jsonb_each(value) e ORDER BY e.key LOOP
				IF op = 'in' AND jsonb_typeof(operand) = 'array' THEN
					conditions := conditions || format('t.%I = ANY (%L::%s[])', name,
						ARRAY(SELECT jsonb_array_elements_text(operand)), type);
				ELSIF ops ? op AND jsonb_typeof(operand) NOT IN ('array', 'object') THEN
					conditions := conditions
						|| format('t.%I %s %L::%s', name, ops ->> op, operand #>> '{}', type);
				ELSE
					RAISE EXCEPTION 'unknown condition "%" on column "%"', op, name
						USING ERRCODE = 'invalid_parameter_value',
						HINT = 'Known are eq, ne, lt, lte, gt, gte with a value and in with an array.';
				END IF;
			END LOOP;
		END IF;
	END LOOP;
	RETURN NULLIF(array_to_string(conditions, ' AND '), '');
END
$$;

-- The first valid index of an access method on a table, of those with one of the columns if any has: its
-- columns in key order, and of the first column the type and the operator that orders by it. Nulls
-- where there is none. In PL/pgSQL with generic plans, which are kept: a function in SQL plans at each call.
CREATE FUNCTION distilface.search_index(target regclass, am text, columns text[],
	OUT index regclass, OUT keys text[], OUT key_type regtype, OUT operator text)
	RETURNS record
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	numbers smallint[];
	class oid;
BEGIN
	SELECT i.indexrelid, (i.indkey::smallint[])[0:i.indnkeyatts - 1], i.indclass[0] INTO index, numbers, class
		FROM pg_index i
		JOIN pg_class r ON r.oid = i.indexrelid
		JOIN pg_am m ON m.oid = r.relam
		WHERE i.indrelid = target AND m.amname = am AND i.indisvalid AND i.indpred IS NULL
			AND i.indkey[0] <> 0
			AND (columns IS NULL OR EXISTS (SELECT FROM pg_attribute a
				WHERE a.attrelid = target AND a.attnum = ANY (i.indkey::smallint[])
					AND a.attname = ANY (columns)))
		ORDER BY i.indexrelid LIMIT 1;
	IF index IS NULL THEN
		RETURN;
	END IF;
	keys := ARRAY(SELECT a.attname::text FROM unnest(numbers) WITH ORDINALITY k(attnum, place)
		JOIN pg_attribute a ON a.attrelid = target AND a.attnum = k.attnum ORDER BY k.place);
	SELECT a.atttypid INTO key_type FROM pg_attribute a
		WHERE a.attrelid = target AND a.attnum = numbers[1];
	SELECT format('OPERATOR(%I.%s)', n.nspname, p.oprname) INTO operator
		FROM pg_opclass c
		JOIN pg_amop o ON o.amopfamily = c.opcfamily AND o.amoppurpose = 'o'
		JOIN pg_operator p ON p.oid = o.amopopr
		JOIN pg_namespace n ON n.oid = p.oprnamespace
		WHERE c.oid = class ORDER BY o.amopstrategy LIMIT 1;
END
$$;

-- A column's name as the query language writes it: what is no letter, digit or underscore escaped.
CREATE FUNCTION distilface.search_name(name text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT regexp_replace(name, '(\W)', '\\\1', 'g')
$$;

CREATE FUNCTION distilface_search_sql("table" regclass, query text, k integer DEFAULT 10,
	mode text DEFAULT 'hybrid', columns text[] DEFAULT NULL, filter jsonb DEFAULT NULL,
	weights real[] DEFAULT '{1,1}', rrf_k integer DEFAULT 60, candidates integer DEFAULT 200,
	fusion text DEFAULT 'rrf', rerank text DEFAULT NULL, rerank_depth integer DEFAULT 50)
	RETURNS text
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	own CONSTANT text := '@extschema@';
	semantic_index regclass;
	semantic_keys text[];
	semantic_type regtype;
	semantic_operator text;
	lexical_index regclass;
	lexical_keys text[];
	condition CONSTANT text := distilface.search_condition("table", filter);
	kept integer;
	lexical_columns text[];
	words text;
	asked text;
	configs text[];
	snippets text[];
	semantic_leg text;
	lexical_leg text;
	share text;
	snippet text := 'NULL::text';
	passage text;
	ranking text;
BEGIN
	IF k NOT BETWEEN 1 AND 10000 THEN
		RAISE EXCEPTION 'k must be from 1 to 10000, got %', k
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Without it, 10 rows are returned.';
	END IF;
	IF mode NOT IN ('hybrid', 'semantic', 'lexical') THEN
		RAISE EXCEPTION 'unknown mode "%"', mode USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Modes are hybrid, semantic and lexical.';
	END IF;
	IF fusion NOT IN ('rrf', 'normalized') THEN
		RAISE EXCEPTION 'unknown fusion "%"', fusion USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Lists are fused by rrf (ranks) or normalized (scores).';
	END IF;
	IF cardinality(weights) <> 2 OR array_position(weights, NULL) IS NOT NULL
		OR NOT (0 <= ALL (weights) AND 'infinity' > ALL (weights)) THEN
		RAISE EXCEPTION 'weights must be two numbers from 0, of the semantic and the lexical list'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'The default is {1,1}.';
	END IF;
	IF rrf_k < 0 OR candidates < 1 THEN
		RAISE EXCEPTION 'rrf_k must be at least 0 and candidates at least 1, got % and %',
			rrf_k, candidates USING ERRCODE = 'invalid_parameter_value',
			HINT = 'The defaults are 60 and 200.';
	END IF;
	IF rerank_depth NOT BETWEEN 1 AND 10000 THEN
		RAISE EXCEPTION 'rerank_depth must be from 1 to 10000, got %', rerank_depth
			USING ERRCODE = 'invalid_parameter_value', HINT = 'The default is 50.';
	END IF;
	IF EXISTS (SELECT FROM unnest(columns) c WHERE NOT EXISTS (SELECT FROM pg_attribute a
			WHERE a.attrelid = "table" AND a.attname = c AND a.attnum > 0 AND NOT a.attisdropped)) THEN
		RAISE EXCEPTION 'columns of % do not exist: %', "table",
			(SELECT string_agg(quote_ident(c), ', ') FROM unnest(columns) c WHERE NOT EXISTS (SELECT
				FROM pg_attribute a WHERE a.attrelid = "table" AND a.attname = c AND NOT a.attisdropped))
			USING ERRCODE = 'undefined_column',
			HINT = 'Name columns of the table that a distilface_bm25 index has.';
	END IF;
	kept := greatest(k, candidates, CASE WHEN rerank IS NOT NULL THEN rerank_depth END);

	IF mode <> 'lexical' THEN
		SELECT i.index, i.keys, i.key_type, i.operator
			INTO semantic_index, semantic_keys, semantic_type, semantic_operator
			FROM distilface.search_index("table", 'distilface_hnsw', columns) i;
		-- The columns name texts; an embedding's column has another name.
		IF semantic_index IS NULL AND columns IS NOT NULL THEN
			SELECT i.index, i.keys, i.key_type, i.operator
				INTO semantic_index, semantic_keys, semantic_type, semantic_operator
				FROM distilface.search_index("table", 'distilface_hnsw', NULL) i;
		END IF;
	END IF;
	IF mode <> 'semantic' THEN
		SELECT i.index, i.keys INTO lexical_index, lexical_keys
			FROM distilface.search_index("table", 'distilface_bm25', columns) i;
	END IF;
	IF semantic_index IS NULL AND lexical_index IS NULL THEN
		RAISE EXCEPTION 'no index of % can answer a % search', "table", mode
			USING ERRCODE = 'undefined_object',
			HINT = 'CREATE INDEX ... USING distilface_hnsw (an embedding column), or USING distilface_bm25 (text columns).';
	END IF;
	IF mode = 'hybrid' AND semantic_index IS NULL THEN
		RAISE NOTICE 'search of % is lexical only', "table"
			USING HINT = 'There is no distilface_hnsw index.';
	ELSIF mode = 'hybrid' AND lexical_index IS NULL THEN
		RAISE NOTICE 'search of % is semantic only', "table"
			USING HINT = 'There is no distilface_bm25 index.';
	END IF;

	IF mode <> 'lexical' AND semantic_index IS NOT NULL THEN
		semantic_leg := format(
			'SELECT t.tableoid, t.ctid, t.%1$I %2$s %3$s AS distance FROM %4$s t%5$s ORDER BY t.%1$I %2$s %3$s LIMIT %6$s',
			semantic_keys[1], semantic_operator,
			CASE WHEN semantic_type = 'text'::regtype THEN format('%L::text', query)
				-- Once, not at every row of the select list.
				ELSE format('(SELECT %s.distilface_embed_query(%L))', own, query) END,
			"table", ' WHERE ' || concat_ws(' AND ', format('t.%I IS NOT NULL', semantic_keys[1]), condition),
			kept);
	END IF;
	IF mode <> 'semantic' AND lexical_index IS NOT NULL THEN
		words := @extschema@.distilface_query(query, lexical_keys);
		lexical_columns := ARRAY(SELECT c FROM unnest(lexical_keys) c
			WHERE columns IS NULL OR c = ANY (columns));
		asked := CASE
			WHEN words ~ '^\s*$' OR cardinality(lexical_columns) = 1 THEN words
			ELSE (SELECT string_agg(format('%s:(%s)', distilface.search_name(c), words), ' ')
				FROM unnest(lexical_columns) c)
		END;
		lexical_leg := format(
			'SELECT t.tableoid, t.ctid, -(t.%1$I OPERATOR(%2$s.<@>) %3$L::text) AS score FROM %4$s t WHERE %5$s ORDER BY t.%1$I OPERATOR(%2$s.<@>) %3$L::text LIMIT %6$s',
			lexical_columns[1], own, asked, "table",
			concat_ws(' AND ', format('t.%I OPERATOR(%s.@@@) %L::text', lexical_columns[1], own, asked),
				condition),
			kept);
		configs := (SELECT ARRAY(SELECT i.text_configs[array_position(i.columns, c)]
				FROM unnest(lexical_columns) WITH ORDINALITY u(c, place) ORDER BY place)
			FROM @extschema@.distilface_bm25_info(coalesce((SELECT p.relid FROM pg_partition_tree(lexical_index) p
				WHERE p.isleaf LIMIT 1), lexical_index)) i);
		snippets := ARRAY(SELECT format('%s.distilface_highlight(t.%I, %L, %L, max_chars => 200)',
				own, c, words, coalesce(configs[place], 'simple'))
			FROM unnest(lexical_columns) WITH ORDINALITY u(c, place) ORDER BY place);
		-- Of several columns the first with a word of the query, or else the first.
		snippet := CASE WHEN cardinality(snippets) = 1 THEN snippets[1] ELSE format(
			'(SELECT h.marked FROM (VALUES %s) h(place, marked) ORDER BY (strpos(h.marked, ''<b>'') > 0) IS NOT TRUE, h.place LIMIT 1)',
			(SELECT string_agg(format('(%s, %s)', place, s), ', ' ORDER BY place)
				FROM unnest(snippets) WITH ORDINALITY u(s, place))) END;
	END IF;

	IF rerank IS NULL THEN
		ranking := format($sql$SELECT f.tableoid, f.ctid, f.score, f.semantic_rank, f.lexical_rank, f.semantic_distance,
	f.lexical_score, %1$s AS snippet
FROM fused f JOIN %2$s t ON t.ctid = f.ctid AND t.tableoid = f.tableoid
ORDER BY f.score DESC, f.tableoid, f.ctid$sql$, snippet, "table");
	ELSE
		-- The text that a cross-encoder reads: the first column named, or the first of an index that was
		-- searched, or else of the oldest index on text.
		passage := coalesce(columns[1], lexical_columns[1],
			CASE WHEN semantic_type = 'text'::regtype THEN semantic_keys[1] END,
			(SELECT a.attname::text FROM pg_index i
				JOIN pg_class r ON r.oid = i.indexrelid
				JOIN pg_am m ON m.oid = r.relam
				JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
				JOIN pg_type y ON y.oid = a.atttypid
				WHERE i.indrelid = "table" AND m.amname IN ('distilface_hnsw', 'distilface_bm25') AND y.typcategory = 'S'
				ORDER BY i.indexrelid LIMIT 1));
		IF passage IS NULL THEN
			RAISE EXCEPTION 'there is no text of % to rerank', "table"
				USING ERRCODE = 'undefined_column',
				HINT = 'Name the column of texts: columns => ''{body}''.';
		END IF;
		ranking := format($sql$SELECT f.tableoid, f.ctid, r.score::float8 AS score, f.semantic_rank, f.lexical_rank,
	f.semantic_distance, f.lexical_score, %1$s AS snippet
FROM (SELECT *, row_number() OVER (ORDER BY score DESC, tableoid, ctid) AS place FROM fused) f
JOIN %2$s.distilface_rerank(%3$L, ARRAY(SELECT t.%4$I::text
	FROM fused f JOIN %5$s t ON t.ctid = f.ctid AND t.tableoid = f.tableoid
	ORDER BY f.score DESC, f.tableoid, f.ctid), %6$L) r ON r.ord = f.place
JOIN %5$s t ON t.ctid = f.ctid AND t.tableoid = f.tableoid
ORDER BY r.score DESC NULLS LAST, f.place LIMIT %7$s$sql$,
			snippet, own, query, passage, "table", rerank, k);
	END IF;

	share := CASE fusion WHEN 'rrf' THEN '%1$s::float8 / (%2$s + %3$s.rank)'
		ELSE '%1$s::float8 * %3$s.share' END;
	RETURN format($sql$WITH semantic AS (
	SELECT tableoid, ctid, distance,
		row_number() OVER (ORDER BY distance, tableoid, ctid) AS rank,
		coalesce((max(distance) OVER () - distance) / nullif(max(distance) OVER () - min(distance) OVER (), 0), 1) AS share
	FROM (%1$s) leg
), lexical AS (
	SELECT tableoid, ctid, score,
		row_number() OVER (ORDER BY score DESC, tableoid, ctid) AS rank,
		coalesce((score - min(score) OVER ()) / nullif(max(score) OVER () - min(score) OVER (), 0), 1) AS share
	FROM (%2$s) leg
), fused AS (
	SELECT tableoid, ctid,
		coalesce(%3$s, 0) + coalesce(%4$s, 0) AS score,
		s.rank::integer AS semantic_rank, l.rank::integer AS lexical_rank,
		s.distance AS semantic_distance, l.score AS lexical_score
	FROM semantic s FULL JOIN lexical l USING (tableoid, ctid)
	ORDER BY score DESC, tableoid, ctid LIMIT %5$s
)
%6$s$sql$,
		coalesce(semantic_leg, 'SELECT NULL::oid AS tableoid, NULL::tid AS ctid, NULL::float8 AS distance WHERE false'),
		coalesce(lexical_leg, 'SELECT NULL::oid AS tableoid, NULL::tid AS ctid, NULL::float8 AS score WHERE false'),
		format(share, weights[1], rrf_k, 's'), format(share, weights[2], rrf_k, 'l'),
		CASE WHEN rerank IS NULL THEN k ELSE greatest(k, rerank_depth) END, ranking);
END
$$;
COMMENT ON FUNCTION distilface_search_sql(regclass, text, integer, text, text[], jsonb, real[], integer, integer, text, text, integer)
	IS 'the plain SQL that distilface_search runs';

CREATE FUNCTION distilface_search("table" regclass, query text, k integer DEFAULT 10,
	mode text DEFAULT 'hybrid', columns text[] DEFAULT NULL, filter jsonb DEFAULT NULL,
	weights real[] DEFAULT '{1,1}', rrf_k integer DEFAULT 60, candidates integer DEFAULT 200,
	fusion text DEFAULT 'rrf', rerank text DEFAULT NULL, rerank_depth integer DEFAULT 50)
	RETURNS TABLE (tableoid oid, ctid tid, score double precision, semantic_rank integer,
		lexical_rank integer, semantic_distance double precision, lexical_score double precision,
		snippet text)
	LANGUAGE plpgsql STABLE ROWS 10
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- Nothing is like nothing, and no word is in it.
	IF query IS NULL OR query ~ '^\s*$' THEN
		RETURN;
	END IF;
	RETURN QUERY EXECUTE @extschema@.distilface_search_sql("table", query, k, mode, columns, filter, weights,
		rrf_k, candidates, fusion, rerank, rerank_depth);
END
$$;
COMMENT ON FUNCTION distilface_search(regclass, text, integer, text, text[], jsonb, real[], integer, integer, text, text, integer)
	IS 'ranked rows for a text, by meaning and by words';
