-- create a table
CREATE TABLE IF NOT EXISTS "shop"."order" (
	"companyId" text COLLATE "C" NOT NULL,
	"id" bigint NOT NULL,
	"it's ""odd""" text,
	"createdDate" timestamptz,
	"total" double precision,
	"taxed" boolean,
	"meta" jsonb,
	"tags" jsonb,
	"_eds_version" text COLLATE "C",
	PRIMARY KEY ("companyId", "id")
);

-- add a column
ALTER TABLE "shop"."order" ADD COLUMN IF NOT EXISTS "email" text;

-- relax a column
ALTER TABLE "shop"."order" ALTER COLUMN "total" DROP NOT NULL;

-- widen integers to numbers
ALTER TABLE "shop"."order" ALTER COLUMN "total" TYPE numeric USING "total"::numeric;

-- widen instants to text
ALTER TABLE "shop"."order" ALTER COLUMN "total" TYPE text USING to_char("total" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');

-- upsert a few rows into order
INSERT INTO "shop"."order" AS t ("companyId", "id", "it's ""odd""", "meta") SELECT s.c1, s.c2, s.c3, s.c4 FROM unnest($1::pg_catalog.text[], $2::pg_catalog.int8[], $3::pg_catalog.text[], $4::pg_catalog.jsonb[]) AS s(c1, c2, c3, c4) ON CONFLICT ("companyId", "id") DO UPDATE SET "it's ""odd""" = excluded."it's ""odd""", "meta" = excluded."meta";

-- delete from order
DELETE FROM "shop"."order" AS t USING unnest($1::pg_catalog.text[], $2::pg_catalog.int8[]) AS s(c1, c2) WHERE t."companyId" = s.c1 AND t."id" = s.c2;

-- upsert many rows into order
CREATE TEMPORARY TABLE pg_temp._eds_abb92e7455e1e286 ("companyId" text, "id" int8, "it's ""odd""" text, "meta" jsonb) ON COMMIT DELETE ROWS;
COPY pg_temp._eds_abb92e7455e1e286 ("companyId", "id", "it's ""odd""", "meta") FROM STDIN (FORMAT binary);
INSERT INTO "shop"."order" AS t ("companyId", "id", "it's ""odd""", "meta") SELECT s."companyId", s."id", s."it's ""odd""", s."meta" FROM pg_temp._eds_abb92e7455e1e286 AS s ON CONFLICT ("companyId", "id") DO UPDATE SET "it's ""odd""" = excluded."it's ""odd""", "meta" = excluded."meta";

-- copy wide rows into order
COPY "shop"."order" ("companyId", "id", "it's ""odd""", "meta") FROM STDIN (FORMAT binary);

-- make a stage for order
CREATE TABLE "shop"."_eds_load_order" (
	"companyId" text NOT NULL,
	"id" int8 NOT NULL,
	"it's ""odd""" text,
	"meta" jsonb
);

-- seal it
ALTER TABLE "shop"."_eds_load_order" ADD CONSTRAINT "_eds_key_order" PRIMARY KEY ("companyId", "id");

-- remove rows that were loaded twice
SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM "shop"."_eds_load_order" GROUP BY "companyId", "id" HAVING count(*) > 1) AS s;
DELETE FROM "shop"."_eds_load_order" AS t USING (SELECT "companyId", "id", max(ctid) AS last FROM "shop"."_eds_load_order" GROUP BY "companyId", "id" HAVING count(*) > 1) AS s WHERE t."companyId" = s."companyId" AND t."id" = s."id" AND t.ctid < s.last;

-- put it in place of order
TRUNCATE "shop"."order";
INSERT INTO "shop"."order" ("companyId", "id", "it's ""odd""", "meta") SELECT s."companyId", s."id", s."it's ""odd""", s."meta" FROM "shop"."_eds_load_order" AS s;
DROP TABLE "shop"."_eds_load_order";

-- merge it into order
INSERT INTO "shop"."order" AS t ("companyId", "id", "it's ""odd""", "meta") SELECT s."companyId", s."id", s."it's ""odd""", s."meta" FROM "shop"."_eds_load_order" AS s ON CONFLICT ("companyId", "id") DO UPDATE SET "it's ""odd""" = excluded."it's ""odd""", "meta" = excluded."meta";
DROP TABLE "shop"."_eds_load_order";

-- put it in place of some rows of order
LOCK TABLE "shop"."order" IN SHARE ROW EXCLUSIVE MODE;
DELETE FROM "shop"."order" AS t WHERE t."companyId"::text COLLATE "C" IN ('x', E'it''s \\ odd') AND NOT EXISTS (SELECT FROM "shop"."_eds_load_order" AS s WHERE t."companyId" = s."companyId" AND t."id" = s."id");
INSERT INTO "shop"."order" AS t ("companyId", "id", "it's ""odd""", "meta") SELECT s."companyId", s."id", s."it's ""odd""", s."meta" FROM "shop"."_eds_load_order" AS s ON CONFLICT ("companyId", "id") DO UPDATE SET "it's ""odd""" = excluded."it's ""odd""", "meta" = excluded."meta";
DROP TABLE "shop"."_eds_load_order";
SELECT count(*) FROM "shop"."order" AS t WHERE t."companyId"::text COLLATE "C" IN ('x', E'it''s \\ odd');

-- upsert a few rows into link
INSERT INTO "shop"."link" AS t ("a", "b") SELECT s.c1, s.c2 FROM unnest($1::pg_catalog.text[], $2::pg_catalog.text[]) AS s(c1, c2) ON CONFLICT ("a", "b") DO NOTHING;

-- delete from link
DELETE FROM "shop"."link" AS t USING unnest($1::pg_catalog.text[], $2::pg_catalog.text[]) AS s(c1, c2) WHERE t."a" = s.c1 AND t."b" = s.c2;

-- upsert many rows into link
CREATE TEMPORARY TABLE pg_temp._eds_10af477f7f8c9710 ("a" text, "b" text) ON COMMIT DELETE ROWS;
COPY pg_temp._eds_10af477f7f8c9710 ("a", "b") FROM STDIN (FORMAT binary);
INSERT INTO "shop"."link" AS t ("a", "b") SELECT s."a", s."b" FROM pg_temp._eds_10af477f7f8c9710 AS s ON CONFLICT ("a", "b") DO NOTHING;

-- copy wide rows into link
COPY "shop"."link" ("a", "b") FROM STDIN (FORMAT binary);

-- make a stage for link
CREATE TABLE "shop"."_eds_load_link" (
	"a" text NOT NULL,
	"b" text NOT NULL
);

-- seal it
ALTER TABLE "shop"."_eds_load_link" ADD CONSTRAINT "_eds_key_link" PRIMARY KEY ("a", "b");

-- remove rows that were loaded twice
SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM "shop"."_eds_load_link" GROUP BY "a", "b" HAVING count(*) > 1) AS s;
DELETE FROM "shop"."_eds_load_link" AS t USING (SELECT "a", "b", max(ctid) AS last FROM "shop"."_eds_load_link" GROUP BY "a", "b" HAVING count(*) > 1) AS s WHERE t."a" = s."a" AND t."b" = s."b" AND t.ctid < s.last;

-- put it in place of link
TRUNCATE "shop"."link";
INSERT INTO "shop"."link" ("a", "b") SELECT s."a", s."b" FROM "shop"."_eds_load_link" AS s;
DROP TABLE "shop"."_eds_load_link";

-- merge it into link
INSERT INTO "shop"."link" AS t ("a", "b") SELECT s."a", s."b" FROM "shop"."_eds_load_link" AS s ON CONFLICT ("a", "b") DO NOTHING;
DROP TABLE "shop"."_eds_load_link";

-- put it in place of some rows of link
LOCK TABLE "shop"."link" IN SHARE ROW EXCLUSIVE MODE;
DELETE FROM "shop"."link" AS t WHERE t."a"::text COLLATE "C" IN ('x', E'it''s \\ odd') AND NOT EXISTS (SELECT FROM "shop"."_eds_load_link" AS s WHERE t."a" = s."a" AND t."b" = s."b");
INSERT INTO "shop"."link" AS t ("a", "b") SELECT s."a", s."b" FROM "shop"."_eds_load_link" AS s ON CONFLICT ("a", "b") DO NOTHING;
DROP TABLE "shop"."_eds_load_link";
SELECT count(*) FROM "shop"."link" AS t WHERE t."a"::text COLLATE "C" IN ('x', E'it''s \\ odd');

-- upsert a few rows into loose
UPDATE "shop"."loose" AS t SET "n" = s.c2 FROM unnest($1::pg_catalog.text[], $2::pg_catalog.text[]) AS s(c1, c2) WHERE t."id" = s.c1;
INSERT INTO "shop"."loose" AS t ("id", "n") SELECT s.c1, s.c2 FROM unnest($1::pg_catalog.text[], $2::pg_catalog.text[]) AS s(c1, c2) WHERE NOT EXISTS (SELECT FROM "shop"."loose" AS t WHERE t."id" = s.c1);

-- delete from loose
DELETE FROM "shop"."loose" AS t USING unnest($1::pg_catalog.text[]) AS s(c1) WHERE t."id" = s.c1;

-- upsert many rows into loose
CREATE TEMPORARY TABLE pg_temp._eds_04de164db2cffb80 ("id" text, "n" text) ON COMMIT DELETE ROWS;
COPY pg_temp._eds_04de164db2cffb80 ("id", "n") FROM STDIN (FORMAT binary);
UPDATE "shop"."loose" AS t SET "n" = s."n" FROM pg_temp._eds_04de164db2cffb80 AS s WHERE t."id" = s."id";
INSERT INTO "shop"."loose" AS t ("id", "n") SELECT s."id", s."n" FROM pg_temp._eds_04de164db2cffb80 AS s WHERE NOT EXISTS (SELECT FROM "shop"."loose" AS t WHERE t."id" = s."id");

-- copy wide rows into loose
COPY "shop"."loose" ("id", "n") FROM STDIN (FORMAT binary);

-- make a stage for loose
CREATE TABLE "shop"."_eds_load_loose" (
	"id" text NOT NULL,
	"n" text
);

-- seal it
ALTER TABLE "shop"."_eds_load_loose" ADD CONSTRAINT "_eds_key_loose" PRIMARY KEY ("id");

-- remove rows that were loaded twice
SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM "shop"."_eds_load_loose" GROUP BY "id" HAVING count(*) > 1) AS s;
DELETE FROM "shop"."_eds_load_loose" AS t USING (SELECT "id", max(ctid) AS last FROM "shop"."_eds_load_loose" GROUP BY "id" HAVING count(*) > 1) AS s WHERE t."id" = s."id" AND t.ctid < s.last;

-- put it in place of loose
TRUNCATE "shop"."loose";
INSERT INTO "shop"."loose" ("id", "n") SELECT s."id", s."n" FROM "shop"."_eds_load_loose" AS s;
DROP TABLE "shop"."_eds_load_loose";

-- merge it into loose
UPDATE "shop"."loose" AS t SET "n" = s."n" FROM "shop"."_eds_load_loose" AS s WHERE t."id" = s."id";
INSERT INTO "shop"."loose" AS t ("id", "n") SELECT s."id", s."n" FROM "shop"."_eds_load_loose" AS s WHERE NOT EXISTS (SELECT FROM "shop"."loose" AS t WHERE t."id" = s."id");
DROP TABLE "shop"."_eds_load_loose";

-- put it in place of some rows of loose
LOCK TABLE "shop"."loose" IN SHARE ROW EXCLUSIVE MODE;
DELETE FROM "shop"."loose" AS t WHERE t."id"::text COLLATE "C" IN ('x', E'it''s \\ odd') AND NOT EXISTS (SELECT FROM "shop"."_eds_load_loose" AS s WHERE t."id" = s."id");
UPDATE "shop"."loose" AS t SET "n" = s."n" FROM "shop"."_eds_load_loose" AS s WHERE t."id" = s."id";
INSERT INTO "shop"."loose" AS t ("id", "n") SELECT s."id", s."n" FROM "shop"."_eds_load_loose" AS s WHERE NOT EXISTS (SELECT FROM "shop"."loose" AS t WHERE t."id" = s."id");
DROP TABLE "shop"."_eds_load_loose";
SELECT count(*) FROM "shop"."loose" AS t WHERE t."id"::text COLLATE "C" IN ('x', E'it''s \\ odd');

-- upsert a few rows into guarded
INSERT INTO "shop"."guarded" AS t ("id", "n", "_eds_op", "_eds_version", "_eds_synced_at", "_eds_deleted") SELECT s.c1, s.c2, s.c3, s.c4, s.c5, s.c6 FROM unnest($1::pg_catalog.text[], $2::pg_catalog.text[], $3::pg_catalog.text[], $4::pg_catalog.text[], $5::pg_catalog.timestamptz[], $6::pg_catalog.text[]) AS s(c1, c2, c3, c4, c5, c6) ON CONFLICT ("id") DO UPDATE SET "n" = excluded."n", "_eds_op" = excluded."_eds_op", "_eds_version" = excluded."_eds_version", "_eds_synced_at" = excluded."_eds_synced_at", "_eds_deleted" = excluded."_eds_deleted" WHERE (t."_eds_version" IS NULL OR t."_eds_version" <= excluded."_eds_version");

-- delete from guarded
UPDATE "shop"."guarded" AS t SET "_eds_op" = s.c2, "_eds_version" = s.c3, "_eds_synced_at" = s.c4, "_eds_deleted" = s.c5 FROM unnest($1::pg_catalog.text[], $2::pg_catalog.text[], $3::pg_catalog.text[], $4::pg_catalog.timestamptz[], $5::pg_catalog.text[]) AS s(c1, c2, c3, c4, c5) WHERE t."id" = s.c1 AND (t."_eds_version" IS NULL OR t."_eds_version" <= s.c3);

-- upsert many rows into guarded
CREATE TEMPORARY TABLE pg_temp._eds_70a381f0f0dd2e55 ("id" text, "n" text, "_eds_op" text, "_eds_version" text, "_eds_synced_at" timestamptz, "_eds_deleted" text) ON COMMIT DELETE ROWS;
COPY pg_temp._eds_70a381f0f0dd2e55 ("id", "n", "_eds_op", "_eds_version", "_eds_synced_at", "_eds_deleted") FROM STDIN (FORMAT binary);
INSERT INTO "shop"."guarded" AS t ("id", "n", "_eds_op", "_eds_version", "_eds_synced_at", "_eds_deleted") SELECT s."id", s."n", s."_eds_op", s."_eds_version", s."_eds_synced_at", s."_eds_deleted" FROM pg_temp._eds_70a381f0f0dd2e55 AS s ON CONFLICT ("id") DO UPDATE SET "n" = excluded."n", "_eds_op" = excluded."_eds_op", "_eds_version" = excluded."_eds_version", "_eds_synced_at" = excluded."_eds_synced_at", "_eds_deleted" = excluded."_eds_deleted" WHERE (t."_eds_version" IS NULL OR t."_eds_version" <= excluded."_eds_version");

-- make a stage for guarded
CREATE TABLE "shop"."_eds_load_guarded" (
	"id" text NOT NULL,
	"n" text,
	"_eds_op" text,
	"_eds_version" text,
	"_eds_synced_at" timestamptz,
	"_eds_deleted" text
);

-- seal it
ALTER TABLE "shop"."_eds_load_guarded" ADD CONSTRAINT "_eds_key_guarded" PRIMARY KEY ("id");

-- remove rows that were loaded twice
SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM "shop"."_eds_load_guarded" GROUP BY "id" HAVING count(*) > 1) AS s;
DELETE FROM "shop"."_eds_load_guarded" AS t USING (SELECT "id", max(ctid) AS last FROM "shop"."_eds_load_guarded" GROUP BY "id" HAVING count(*) > 1) AS s WHERE t."id" = s."id" AND t.ctid < s.last;

-- put it in place of guarded
TRUNCATE "shop"."guarded";
INSERT INTO "shop"."guarded" ("id", "n", "_eds_op", "_eds_version", "_eds_synced_at", "_eds_deleted") SELECT s."id", s."n", s."_eds_op", s."_eds_version", s."_eds_synced_at", s."_eds_deleted" FROM "shop"."_eds_load_guarded" AS s;
DROP TABLE "shop"."_eds_load_guarded";

-- merge it into guarded
INSERT INTO "shop"."guarded" AS t ("id", "n", "_eds_op", "_eds_version", "_eds_synced_at", "_eds_deleted") SELECT s."id", s."n", s."_eds_op", s."_eds_version", s."_eds_synced_at", s."_eds_deleted" FROM "shop"."_eds_load_guarded" AS s ON CONFLICT ("id") DO UPDATE SET "n" = excluded."n", "_eds_op" = excluded."_eds_op", "_eds_version" = excluded."_eds_version", "_eds_synced_at" = excluded."_eds_synced_at", "_eds_deleted" = excluded."_eds_deleted" WHERE (t."_eds_version" IS NULL OR t."_eds_version" <= excluded."_eds_version");
DROP TABLE "shop"."_eds_load_guarded";

-- put it in place of some rows of guarded
LOCK TABLE "shop"."guarded" IN SHARE ROW EXCLUSIVE MODE;
DELETE FROM "shop"."guarded" AS t WHERE t."id"::text COLLATE "C" IN ('x', E'it''s \\ odd') AND NOT EXISTS (SELECT FROM "shop"."_eds_load_guarded" AS s WHERE t."id" = s."id");
INSERT INTO "shop"."guarded" AS t ("id", "n", "_eds_op", "_eds_version", "_eds_synced_at", "_eds_deleted") SELECT s."id", s."n", s."_eds_op", s."_eds_version", s."_eds_synced_at", s."_eds_deleted" FROM "shop"."_eds_load_guarded" AS s ON CONFLICT ("id") DO UPDATE SET "n" = excluded."n", "_eds_op" = excluded."_eds_op", "_eds_version" = excluded."_eds_version", "_eds_synced_at" = excluded."_eds_synced_at", "_eds_deleted" = excluded."_eds_deleted";
DROP TABLE "shop"."_eds_load_guarded";
SELECT count(*) FROM "shop"."guarded" AS t WHERE t."id"::text COLLATE "C" IN ('x', E'it''s \\ odd');

-- upsert a few rows into newer
UPDATE "shop"."newer" AS t SET "n" = s.c2, "_eds_version" = s.c3 FROM unnest($1::pg_catalog.text[], $2::pg_catalog.text[], $3::pg_catalog.text[]) AS s(c1, c2, c3) WHERE t."id" = s.c1 AND (t."_eds_version" IS NULL OR t."_eds_version" <= s.c3);
INSERT INTO "shop"."newer" AS t ("id", "n", "_eds_version") SELECT s.c1, s.c2, s.c3 FROM unnest($1::pg_catalog.text[], $2::pg_catalog.text[], $3::pg_catalog.text[]) AS s(c1, c2, c3) WHERE NOT EXISTS (SELECT FROM "shop"."newer" AS t WHERE t."id" = s.c1);

-- delete from newer
DELETE FROM "shop"."newer" AS t USING unnest($1::pg_catalog.text[], $2::pg_catalog.text[]) AS s(c1, c2) WHERE t."id" = s.c1 AND (t."_eds_version" IS NULL OR t."_eds_version" <= s.c2);

-- upsert many rows into newer
CREATE TEMPORARY TABLE pg_temp._eds_9b8a198feffbfcc0 ("id" text, "n" text, "_eds_version" text) ON COMMIT DELETE ROWS;
COPY pg_temp._eds_9b8a198feffbfcc0 ("id", "n", "_eds_version") FROM STDIN (FORMAT binary);
UPDATE "shop"."newer" AS t SET "n" = s."n", "_eds_version" = s."_eds_version" FROM pg_temp._eds_9b8a198feffbfcc0 AS s WHERE t."id" = s."id" AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."_eds_version");
INSERT INTO "shop"."newer" AS t ("id", "n", "_eds_version") SELECT s."id", s."n", s."_eds_version" FROM pg_temp._eds_9b8a198feffbfcc0 AS s WHERE NOT EXISTS (SELECT FROM "shop"."newer" AS t WHERE t."id" = s."id");

-- make a stage for newer
CREATE TABLE "shop"."_eds_load_newer" (
	"id" text NOT NULL,
	"n" text,
	"_eds_version" text
);

-- seal it
ALTER TABLE "shop"."_eds_load_newer" ADD CONSTRAINT "_eds_key_newer" PRIMARY KEY ("id");

-- remove rows that were loaded twice
SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM "shop"."_eds_load_newer" GROUP BY "id" HAVING count(*) > 1) AS s;
DELETE FROM "shop"."_eds_load_newer" AS t USING (SELECT "id", max(ctid) AS last FROM "shop"."_eds_load_newer" GROUP BY "id" HAVING count(*) > 1) AS s WHERE t."id" = s."id" AND t.ctid < s.last;

-- put it in place of newer
TRUNCATE "shop"."newer";
INSERT INTO "shop"."newer" ("id", "n", "_eds_version") SELECT s."id", s."n", s."_eds_version" FROM "shop"."_eds_load_newer" AS s;
DROP TABLE "shop"."_eds_load_newer";

-- merge it into newer
UPDATE "shop"."newer" AS t SET "n" = s."n", "_eds_version" = s."_eds_version" FROM "shop"."_eds_load_newer" AS s WHERE t."id" = s."id" AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."_eds_version");
INSERT INTO "shop"."newer" AS t ("id", "n", "_eds_version") SELECT s."id", s."n", s."_eds_version" FROM "shop"."_eds_load_newer" AS s WHERE NOT EXISTS (SELECT FROM "shop"."newer" AS t WHERE t."id" = s."id");
DROP TABLE "shop"."_eds_load_newer";

-- put it in place of some rows of newer
LOCK TABLE "shop"."newer" IN SHARE ROW EXCLUSIVE MODE;
DELETE FROM "shop"."newer" AS t WHERE t."id"::text COLLATE "C" IN ('x', E'it''s \\ odd') AND NOT EXISTS (SELECT FROM "shop"."_eds_load_newer" AS s WHERE t."id" = s."id");
UPDATE "shop"."newer" AS t SET "n" = s."n", "_eds_version" = s."_eds_version" FROM "shop"."_eds_load_newer" AS s WHERE t."id" = s."id";
INSERT INTO "shop"."newer" AS t ("id", "n", "_eds_version") SELECT s."id", s."n", s."_eds_version" FROM "shop"."_eds_load_newer" AS s WHERE NOT EXISTS (SELECT FROM "shop"."newer" AS t WHERE t."id" = s."id");
DROP TABLE "shop"."_eds_load_newer";
SELECT count(*) FROM "shop"."newer" AS t WHERE t."id"::text COLLATE "C" IN ('x', E'it''s \\ odd');

-- upsert a few rows into paint
INSERT INTO "shop"."paint" AS t ("id", "colour") SELECT s.c1, s.c2::public.colour FROM unnest($1::pg_catalog.text[], $2::text[]) AS s(c1, c2) ON CONFLICT ("id") DO UPDATE SET "colour" = excluded."colour";

-- delete from paint
DELETE FROM "shop"."paint" AS t USING unnest($1::pg_catalog.text[]) AS s(c1) WHERE t."id" = s.c1;

-- upsert many rows into paint
CREATE TEMPORARY TABLE pg_temp._eds_d6dcbc8da547298e ("id" text, "colour" text) ON COMMIT DELETE ROWS;
COPY pg_temp._eds_d6dcbc8da547298e ("id", "colour") FROM STDIN (FORMAT binary);
INSERT INTO "shop"."paint" AS t ("id", "colour") SELECT s."id", s."colour"::public.colour FROM pg_temp._eds_d6dcbc8da547298e AS s ON CONFLICT ("id") DO UPDATE SET "colour" = excluded."colour";

-- make a stage for paint
CREATE TABLE "shop"."_eds_load_paint" (
	"id" text NOT NULL,
	"colour" text
);

-- seal it
ALTER TABLE "shop"."_eds_load_paint" ADD CONSTRAINT "_eds_key_paint" PRIMARY KEY ("id");

-- remove rows that were loaded twice
SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM "shop"."_eds_load_paint" GROUP BY "id" HAVING count(*) > 1) AS s;
DELETE FROM "shop"."_eds_load_paint" AS t USING (SELECT "id", max(ctid) AS last FROM "shop"."_eds_load_paint" GROUP BY "id" HAVING count(*) > 1) AS s WHERE t."id" = s."id" AND t.ctid < s.last;

-- put it in place of paint
TRUNCATE "shop"."paint";
INSERT INTO "shop"."paint" ("id", "colour") SELECT s."id", s."colour"::public.colour FROM "shop"."_eds_load_paint" AS s;
DROP TABLE "shop"."_eds_load_paint";

-- merge it into paint
INSERT INTO "shop"."paint" AS t ("id", "colour") SELECT s."id", s."colour"::public.colour FROM "shop"."_eds_load_paint" AS s ON CONFLICT ("id") DO UPDATE SET "colour" = excluded."colour";
DROP TABLE "shop"."_eds_load_paint";

-- put it in place of some rows of paint
LOCK TABLE "shop"."paint" IN SHARE ROW EXCLUSIVE MODE;
DELETE FROM "shop"."paint" AS t WHERE t."id"::text COLLATE "C" IN ('x', E'it''s \\ odd') AND NOT EXISTS (SELECT FROM "shop"."_eds_load_paint" AS s WHERE t."id" = s."id");
INSERT INTO "shop"."paint" AS t ("id", "colour") SELECT s."id", s."colour"::public.colour FROM "shop"."_eds_load_paint" AS s ON CONFLICT ("id") DO UPDATE SET "colour" = excluded."colour";
DROP TABLE "shop"."_eds_load_paint";
SELECT count(*) FROM "shop"."paint" AS t WHERE t."id"::text COLLATE "C" IN ('x', E'it''s \\ odd');

-- move a checkpoint
INSERT INTO "shop"."_eds_checkpoint" AS c (stream, consumer, filter, position, stored) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (stream, consumer, filter) DO UPDATE SET stored = excluded.stored,
position = CASE WHEN c.position = $6 AND c.stored = $7 THEN excluded.position ELSE 1 / (excluded.position - excluded.position) END;

-- describe tables
SELECT c.oid::text, c.relname,
       c.relkind = 'r' AND NOT c.relhastriggers AND NOT c.relhasrules AND NOT c.relrowsecurity AND NOT c.relispartition
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid OR h.inhrelid = c.oid),
       a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull OR t.typnotnull,
       a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL, a.attgenerated <> '' OR a.attidentity = 'a',
       b.oid::text, b.typname, b.typtype::text, b.typcategory::text, b.typarray::text, pg_catalog.quote_ident(bs.nspname) || '."' || replace(b.typname, '"', '""') || '"',
       CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END::text,
       coalesce((SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(l.collname)
                   FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace n ON n.oid = l.collnamespace
                  WHERE l.oid = a.attcollation AND a.attcollation <> b.typcollation), ''),
       t.typtype = 'd', c.relkind::text
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  JOIN pg_catalog.pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
  JOIN pg_catalog.pg_namespace bs ON bs.oid = b.typnamespace
 WHERE s.nspname = $1 AND c.relname IN (SELECT json_array_elements_text($2::json))
 ORDER BY c.relname, a.attnum;

