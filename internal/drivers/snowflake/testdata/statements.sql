-- inspect the session
SELECT CURRENT_DATABASE(), CURRENT_SCHEMA(), CURRENT_WAREHOUSE(), CURRENT_ROLE(), CURRENT_SESSION();

-- describe tables
SELECT TABLE_NAME, COLUMN_NAME, DATA_TYPE, TO_VARCHAR(CHARACTER_MAXIMUM_LENGTH), TO_VARCHAR(NUMERIC_PRECISION), TO_VARCHAR(NUMERIC_SCALE), TO_VARCHAR(DATETIME_PRECISION), IS_NULLABLE, COLUMN_DEFAULT, IS_IDENTITY
FROM INFORMATION_SCHEMA.COLUMNS
WHERE TABLE_SCHEMA = CURRENT_SCHEMA() AND TABLE_NAME IN (SELECT VALUE::VARCHAR FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?))))
ORDER BY TABLE_NAME, ORDINAL_POSITION;
SHOW PRIMARY KEYS IN SCHEMA;

-- make the session's stage
CREATE TEMPORARY STAGE IF NOT EXISTS "EDS_STAGE" FILE_FORMAT = (TYPE = JSON COMPRESSION = GZIP ALLOW_DUPLICATE = TRUE);

-- make the schema
CREATE SCHEMA IF NOT EXISTS "SHOP"."PUBLIC";
USE SCHEMA "SHOP"."PUBLIC";

-- probe a schema that is not there
CREATE TRANSIENT SCHEMA "SHOP"."_eds_probe_7";
DROP SCHEMA IF EXISTS "SHOP"."_eds_probe_7";

-- create a table
CREATE TABLE IF NOT EXISTS "order" (
	"companyId" STRING NOT NULL,
	"id" NUMBER(38,0) NOT NULL,
	"it's ""odd"" %d" STRING,
	"createdDate" TIMESTAMP_TZ(9),
	"total" FLOAT,
	"taxed" BOOLEAN,
	"meta" VARIANT,
	"tags" VARIANT,
	"_eds_version" STRING,
	PRIMARY KEY ("companyId", "id")
);

-- add a column
ALTER TABLE "order" ADD COLUMN IF NOT EXISTS "email" STRING;

-- relax a column
ALTER TABLE "order" ALTER COLUMN "must" DROP NOT NULL;

-- widen a short number
ALTER TABLE "order" ALTER COLUMN "total" SET DATA TYPE NUMBER(38,0);

-- widen short text
ALTER TABLE "order" ALTER COLUMN "note" SET DATA TYPE VARCHAR(16777216);

-- widen integers to numbers
ALTER TABLE "order" ADD COLUMN IF NOT EXISTS "_eds_wide_n_total" NUMBER(38,18);
UPDATE "order" SET "_eds_wide_n_total" = "total";
ALTER TABLE "order" DROP COLUMN "total";
ALTER TABLE "order" RENAME COLUMN "_eds_wide_n_total" TO "total";

-- widen decimals to text
ALTER TABLE "order" ADD COLUMN IF NOT EXISTS "_eds_wide_s_total" VARCHAR(16777216);
UPDATE "order" SET "_eds_wide_s_total" = RTRIM(RTRIM(TO_VARCHAR("total"), '0'), '.');
ALTER TABLE "order" DROP COLUMN "total";
ALTER TABLE "order" RENAME COLUMN "_eds_wide_s_total" TO "total";

-- widen instants to text
ALTER TABLE "order" ADD COLUMN IF NOT EXISTS "_eds_wide_s_at" VARCHAR(16777216);
UPDATE "order" SET "_eds_wide_s_at" = TO_VARCHAR(CONVERT_TIMEZONE('UTC', "at"), 'YYYY-MM-DD"T"HH24:MI:SS.FF6"Z"');
ALTER TABLE "order" DROP COLUMN "at";
ALTER TABLE "order" RENAME COLUMN "_eds_wide_s_at" TO "at";

-- widen truth values to text
ALTER TABLE "order" ADD COLUMN IF NOT EXISTS "_eds_wide_s_vip" VARCHAR(16777216);
UPDATE "order" SET "_eds_wide_s_vip" = TO_VARCHAR("vip");
ALTER TABLE "order" DROP COLUMN "vip";
ALTER TABLE "order" RENAME COLUMN "_eds_wide_s_vip" TO "vip";

-- write a few rows to order
MERGE INTO "order" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR::NUMBER(38,0) AS "c1", r:c2::VARCHAR AS "c2", r:c3::VARCHAR::NUMBER(38,18) AS "c3", r:c4::VARCHAR::FLOAT AS "c4", r:c5::VARCHAR::BOOLEAN AS "c5", TO_TIMESTAMP_TZ(r:c6::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6TZH:TZM') AS "c6", TO_TIMESTAMP_LTZ(r:c7::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6TZH:TZM') AS "c7", TO_TIMESTAMP_NTZ(r:c8::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6') AS "c8", TO_DATE(r:c9::VARCHAR, 'YYYY-MM-DD') AS "c9", r:c10 AS "c10", r:c11::OBJECT AS "c11", r:c12::ARRAY AS "c12", r:c13::VARCHAR::GEOGRAPHY AS "c13" FROM (SELECT VALUE AS r FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?, 'd'))))
) AS s ON t."companyId" = s."c0" AND t."id" = s."c1"
WHEN MATCHED AND s."o" = 'd' THEN DELETE
WHEN MATCHED AND s."o" = 'u' THEN UPDATE SET "it's ""odd"" %d" = s."c2", "amount" = s."c3", "rate" = s."c4", "vip" = s."c5", "at" = s."c6", "local" = s."c7", "naive" = s."c8", "day" = s."c9", "meta" = s."c10", "map" = s."c11", "list" = s."c12", "place" = s."c13"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("companyId", "id", "it's ""odd"" %d", "amount", "rate", "vip", "at", "local", "naive", "day", "meta", "map", "list", "place") VALUES (s."c0", s."c1", s."c2", s."c3", s."c4", s."c5", s."c6", s."c7", s."c8", s."c9", s."c10", s."c11", s."c12", s."c13");

-- write many rows to order
MERGE INTO "order" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR::NUMBER(38,0) AS "c1", r:c2::VARCHAR AS "c2", r:c3::VARCHAR::NUMBER(38,18) AS "c3", r:c4::VARCHAR::FLOAT AS "c4", r:c5::VARCHAR::BOOLEAN AS "c5", TO_TIMESTAMP_TZ(r:c6::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6TZH:TZM') AS "c6", TO_TIMESTAMP_LTZ(r:c7::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6TZH:TZM') AS "c7", TO_TIMESTAMP_NTZ(r:c8::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6') AS "c8", TO_DATE(r:c9::VARCHAR, 'YYYY-MM-DD') AS "c9", r:c10 AS "c10", r:c11::OBJECT AS "c11", r:c12::ARRAY AS "c12", r:c13::VARCHAR::GEOGRAPHY AS "c13" FROM (SELECT $1 AS r FROM @"EDS_STAGE"/7.json.gz)
) AS s ON t."companyId" = s."c0" AND t."id" = s."c1"
WHEN MATCHED AND s."o" = 'd' THEN DELETE
WHEN MATCHED AND s."o" = 'u' THEN UPDATE SET "it's ""odd"" %d" = s."c2", "amount" = s."c3", "rate" = s."c4", "vip" = s."c5", "at" = s."c6", "local" = s."c7", "naive" = s."c8", "day" = s."c9", "meta" = s."c10", "map" = s."c11", "list" = s."c12", "place" = s."c13"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("companyId", "id", "it's ""odd"" %d", "amount", "rate", "vip", "at", "local", "naive", "day", "meta", "map", "list", "place") VALUES (s."c0", s."c1", s."c2", s."c3", s."c4", s."c5", s."c6", s."c7", s."c8", s."c9", s."c10", s."c11", s."c12", s."c13");

-- delete and insert rows again in order
MERGE INTO "order" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR::NUMBER(38,0) AS "c1", r:c2::VARCHAR AS "c2", r:c3::VARCHAR::NUMBER(38,18) AS "c3", r:c4::VARCHAR::FLOAT AS "c4", r:c5::VARCHAR::BOOLEAN AS "c5", TO_TIMESTAMP_TZ(r:c6::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6TZH:TZM') AS "c6", TO_TIMESTAMP_LTZ(r:c7::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6TZH:TZM') AS "c7", TO_TIMESTAMP_NTZ(r:c8::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6') AS "c8", TO_DATE(r:c9::VARCHAR, 'YYYY-MM-DD') AS "c9", r:c10 AS "c10", r:c11::OBJECT AS "c11", r:c12::ARRAY AS "c12", r:c13::VARCHAR::GEOGRAPHY AS "c13" FROM (SELECT VALUE AS r FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?, 'd')))) WHERE r:o::VARCHAR = 'd'
) AS s ON t."companyId" = s."c0" AND t."id" = s."c1"
WHEN MATCHED AND s."o" = 'd' THEN DELETE
WHEN MATCHED AND s."o" = 'u' THEN UPDATE SET "it's ""odd"" %d" = s."c2", "amount" = s."c3", "rate" = s."c4", "vip" = s."c5", "at" = s."c6", "local" = s."c7", "naive" = s."c8", "day" = s."c9", "meta" = s."c10", "map" = s."c11", "list" = s."c12", "place" = s."c13"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("companyId", "id", "it's ""odd"" %d", "amount", "rate", "vip", "at", "local", "naive", "day", "meta", "map", "list", "place") VALUES (s."c0", s."c1", s."c2", s."c3", s."c4", s."c5", s."c6", s."c7", s."c8", s."c9", s."c10", s."c11", s."c12", s."c13");
MERGE INTO "order" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR::NUMBER(38,0) AS "c1", r:c2::VARCHAR AS "c2", r:c3::VARCHAR::NUMBER(38,18) AS "c3", r:c4::VARCHAR::FLOAT AS "c4", r:c5::VARCHAR::BOOLEAN AS "c5", TO_TIMESTAMP_TZ(r:c6::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6TZH:TZM') AS "c6", TO_TIMESTAMP_LTZ(r:c7::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6TZH:TZM') AS "c7", TO_TIMESTAMP_NTZ(r:c8::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6') AS "c8", TO_DATE(r:c9::VARCHAR, 'YYYY-MM-DD') AS "c9", r:c10 AS "c10", r:c11::OBJECT AS "c11", r:c12::ARRAY AS "c12", r:c13::VARCHAR::GEOGRAPHY AS "c13" FROM (SELECT VALUE AS r FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?, 'd')))) WHERE r:o::VARCHAR = 'u'
) AS s ON t."companyId" = s."c0" AND t."id" = s."c1"
WHEN MATCHED AND s."o" = 'd' THEN DELETE
WHEN MATCHED AND s."o" = 'u' THEN UPDATE SET "it's ""odd"" %d" = s."c2", "amount" = s."c3", "rate" = s."c4", "vip" = s."c5", "at" = s."c6", "local" = s."c7", "naive" = s."c8", "day" = s."c9", "meta" = s."c10", "map" = s."c11", "list" = s."c12", "place" = s."c13"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("companyId", "id", "it's ""odd"" %d", "amount", "rate", "vip", "at", "local", "naive", "day", "meta", "map", "list", "place") VALUES (s."c0", s."c1", s."c2", s."c3", s."c4", s."c5", s."c6", s."c7", s."c8", s."c9", s."c10", s."c11", s."c12", s."c13");

-- stage a snapshot of order
CREATE OR REPLACE TRANSIENT TABLE "_eds_load_order" (
	"companyId" VARCHAR(16777216),
	"id" NUMBER(38,0),
	"it's ""odd"" %d" VARCHAR(10),
	"amount" NUMBER(38,18),
	"rate" FLOAT,
	"vip" BOOLEAN,
	"at" TIMESTAMP_TZ(9),
	"local" TIMESTAMP_LTZ(3),
	"naive" TIMESTAMP_NTZ(9),
	"day" DATE,
	"meta" VARIANT,
	"map" OBJECT,
	"list" ARRAY,
	"place" GEOGRAPHY,
	"_eds_row" NUMBER(38,0)
);
COPY INTO "_eds_load_order" ("companyId", "id", "it's ""odd"" %d", "amount", "rate", "vip", "at", "local", "naive", "day", "meta", "map", "list", "place", "_eds_row") FROM (
SELECT $1:c0::VARCHAR, $1:c1::VARCHAR::NUMBER(38,0), $1:c2::VARCHAR, $1:c3::VARCHAR::NUMBER(38,18), $1:c4::VARCHAR::FLOAT, $1:c5::VARCHAR::BOOLEAN, TO_TIMESTAMP_TZ($1:c6::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6TZH:TZM'), TO_TIMESTAMP_LTZ($1:c7::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6TZH:TZM'), TO_TIMESTAMP_NTZ($1:c8::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6'), TO_DATE($1:c9::VARCHAR, 'YYYY-MM-DD'), $1:c10, $1:c11::OBJECT, $1:c12::ARRAY, $1:c13::VARCHAR::GEOGRAPHY, $1:n::NUMBER(38,0) FROM @"EDS_STAGE"/7.json.gz
) ON_ERROR = ABORT_STATEMENT;

-- remove rows that were staged twice of order
SELECT TO_VARCHAR(COALESCE(SUM(n - 1), 0)) FROM (SELECT COUNT(*) AS n FROM "_eds_load_order" GROUP BY "companyId", "id" HAVING COUNT(*) > 1);
DELETE FROM "_eds_load_order" AS t USING (SELECT "companyId", "id", MAX("_eds_row") AS "_eds_row" FROM "_eds_load_order" GROUP BY "companyId", "id" HAVING COUNT(*) > 1) AS s WHERE t."companyId" = s."companyId" AND t."id" = s."id" AND t."_eds_row" < s."_eds_row";

-- replace the rows of order
DELETE FROM "order";
INSERT INTO "order" ("companyId", "id", "it's ""odd"" %d", "amount", "rate", "vip", "at", "local", "naive", "day", "meta", "map", "list", "place")
SELECT "companyId", "id", "it's ""odd"" %d", "amount", "rate", "vip", "at", "local", "naive", "day", "meta", "map", "list", "place" FROM "_eds_load_order";

-- merge the staged rows into order
MERGE INTO "order" AS t USING "_eds_load_order" AS s ON t."companyId" = s."companyId" AND t."id" = s."id"
WHEN MATCHED THEN UPDATE SET "it's ""odd"" %d" = s."it's ""odd"" %d", "amount" = s."amount", "rate" = s."rate", "vip" = s."vip", "at" = s."at", "local" = s."local", "naive" = s."naive", "day" = s."day", "meta" = s."meta", "map" = s."map", "list" = s."list", "place" = s."place"
WHEN NOT MATCHED THEN INSERT ("companyId", "id", "it's ""odd"" %d", "amount", "rate", "vip", "at", "local", "naive", "day", "meta", "map", "list", "place") VALUES (s."companyId", s."id", s."it's ""odd"" %d", s."amount", s."rate", s."vip", s."at", s."local", s."naive", s."day", s."meta", s."map", s."list", s."place");

-- replace some rows of order
DELETE FROM "order" AS t WHERE t."companyId"::VARCHAR IN ('x', 'it''s \\ odd') AND NOT EXISTS (SELECT 1 FROM "_eds_load_order" AS s WHERE t."companyId" = s."companyId" AND t."id" = s."id");
MERGE INTO "order" AS t USING "_eds_load_order" AS s ON t."companyId" = s."companyId" AND t."id" = s."id"
WHEN MATCHED THEN UPDATE SET "it's ""odd"" %d" = s."it's ""odd"" %d", "amount" = s."amount", "rate" = s."rate", "vip" = s."vip", "at" = s."at", "local" = s."local", "naive" = s."naive", "day" = s."day", "meta" = s."meta", "map" = s."map", "list" = s."list", "place" = s."place"
WHEN NOT MATCHED THEN INSERT ("companyId", "id", "it's ""odd"" %d", "amount", "rate", "vip", "at", "local", "naive", "day", "meta", "map", "list", "place") VALUES (s."companyId", s."id", s."it's ""odd"" %d", s."amount", s."rate", s."vip", s."at", s."local", s."naive", s."day", s."meta", s."map", s."list", s."place");
SELECT TO_VARCHAR(COUNT(*)) FROM "order" AS t WHERE t."companyId"::VARCHAR IN ('x', 'it''s \\ odd');

-- read order
SELECT "companyId", TO_VARCHAR("id"), "it's ""odd"" %d", RTRIM(RTRIM(TO_VARCHAR("amount"), '0'), '.'), "rate", TO_VARCHAR("vip"), TO_VARCHAR(CONVERT_TIMEZONE('UTC', "at"), 'YYYY-MM-DD"T"HH24:MI:SS.FF6"Z"'), TO_VARCHAR(CONVERT_TIMEZONE('UTC', "local"), 'YYYY-MM-DD"T"HH24:MI:SS.FF6"Z"'), TO_VARCHAR("naive", 'YYYY-MM-DD"T"HH24:MI:SS.FF6"Z"'), TO_VARCHAR("day", 'YYYY-MM-DD'), TO_JSON("meta"), TO_JSON("map"), TO_JSON("list"), TO_VARCHAR("place") FROM "order";

-- write a few rows to link
MERGE INTO "link" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR AS "c1" FROM (SELECT VALUE AS r FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?, 'd'))))
) AS s ON t."a" = s."c0" AND t."b" = s."c1"
WHEN MATCHED AND s."o" = 'd' THEN DELETE
WHEN MATCHED AND s."o" = 'u' THEN UPDATE SET "a" = s."c0"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("a", "b") VALUES (s."c0", s."c1");

-- write many rows to link
MERGE INTO "link" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR AS "c1" FROM (SELECT $1 AS r FROM @"EDS_STAGE"/7.json.gz)
) AS s ON t."a" = s."c0" AND t."b" = s."c1"
WHEN MATCHED AND s."o" = 'd' THEN DELETE
WHEN MATCHED AND s."o" = 'u' THEN UPDATE SET "a" = s."c0"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("a", "b") VALUES (s."c0", s."c1");

-- delete and insert rows again in link
MERGE INTO "link" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR AS "c1" FROM (SELECT VALUE AS r FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?, 'd')))) WHERE r:o::VARCHAR = 'd'
) AS s ON t."a" = s."c0" AND t."b" = s."c1"
WHEN MATCHED AND s."o" = 'd' THEN DELETE
WHEN MATCHED AND s."o" = 'u' THEN UPDATE SET "a" = s."c0"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("a", "b") VALUES (s."c0", s."c1");
MERGE INTO "link" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR AS "c1" FROM (SELECT VALUE AS r FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?, 'd')))) WHERE r:o::VARCHAR = 'u'
) AS s ON t."a" = s."c0" AND t."b" = s."c1"
WHEN MATCHED AND s."o" = 'd' THEN DELETE
WHEN MATCHED AND s."o" = 'u' THEN UPDATE SET "a" = s."c0"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("a", "b") VALUES (s."c0", s."c1");

-- stage a snapshot of link
CREATE OR REPLACE TRANSIENT TABLE "_eds_load_link" (
	"a" VARCHAR(16777216),
	"b" VARCHAR(16777216),
	"_eds_row" NUMBER(38,0)
);
COPY INTO "_eds_load_link" ("a", "b", "_eds_row") FROM (
SELECT $1:c0::VARCHAR, $1:c1::VARCHAR, $1:n::NUMBER(38,0) FROM @"EDS_STAGE"/7.json.gz
) ON_ERROR = ABORT_STATEMENT;

-- remove rows that were staged twice of link
SELECT TO_VARCHAR(COALESCE(SUM(n - 1), 0)) FROM (SELECT COUNT(*) AS n FROM "_eds_load_link" GROUP BY "a", "b" HAVING COUNT(*) > 1);
DELETE FROM "_eds_load_link" AS t USING (SELECT "a", "b", MAX("_eds_row") AS "_eds_row" FROM "_eds_load_link" GROUP BY "a", "b" HAVING COUNT(*) > 1) AS s WHERE t."a" = s."a" AND t."b" = s."b" AND t."_eds_row" < s."_eds_row";

-- replace the rows of link
DELETE FROM "link";
INSERT INTO "link" ("a", "b")
SELECT "a", "b" FROM "_eds_load_link";

-- merge the staged rows into link
MERGE INTO "link" AS t USING "_eds_load_link" AS s ON t."a" = s."a" AND t."b" = s."b"
WHEN MATCHED THEN UPDATE SET "a" = s."a"
WHEN NOT MATCHED THEN INSERT ("a", "b") VALUES (s."a", s."b");

-- replace some rows of link
DELETE FROM "link" AS t WHERE t."a"::VARCHAR IN ('x', 'it''s \\ odd') AND NOT EXISTS (SELECT 1 FROM "_eds_load_link" AS s WHERE t."a" = s."a" AND t."b" = s."b");
MERGE INTO "link" AS t USING "_eds_load_link" AS s ON t."a" = s."a" AND t."b" = s."b"
WHEN MATCHED THEN UPDATE SET "a" = s."a"
WHEN NOT MATCHED THEN INSERT ("a", "b") VALUES (s."a", s."b");
SELECT TO_VARCHAR(COUNT(*)) FROM "link" AS t WHERE t."a"::VARCHAR IN ('x', 'it''s \\ odd');

-- read link
SELECT "a", "b" FROM "link";

-- write a few rows to foreign
MERGE INTO "foreign" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR::NUMBER(38,0) AS "c1" FROM (SELECT VALUE AS r FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?, 'd'))))
) AS s ON t."id" = s."c0"
WHEN MATCHED AND s."o" = 'd' THEN DELETE
WHEN MATCHED AND s."o" = 'u' THEN UPDATE SET "n" = s."c1"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("id", "n") VALUES (s."c0", s."c1");

-- write many rows to foreign
MERGE INTO "foreign" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR::NUMBER(38,0) AS "c1" FROM (SELECT $1 AS r FROM @"EDS_STAGE"/7.json.gz)
) AS s ON t."id" = s."c0"
WHEN MATCHED AND s."o" = 'd' THEN DELETE
WHEN MATCHED AND s."o" = 'u' THEN UPDATE SET "n" = s."c1"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("id", "n") VALUES (s."c0", s."c1");

-- delete and insert rows again in foreign
MERGE INTO "foreign" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR::NUMBER(38,0) AS "c1" FROM (SELECT VALUE AS r FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?, 'd')))) WHERE r:o::VARCHAR = 'd'
) AS s ON t."id" = s."c0"
WHEN MATCHED AND s."o" = 'd' THEN DELETE
WHEN MATCHED AND s."o" = 'u' THEN UPDATE SET "n" = s."c1"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("id", "n") VALUES (s."c0", s."c1");
MERGE INTO "foreign" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR::NUMBER(38,0) AS "c1" FROM (SELECT VALUE AS r FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?, 'd')))) WHERE r:o::VARCHAR = 'u'
) AS s ON t."id" = s."c0"
WHEN MATCHED AND s."o" = 'd' THEN DELETE
WHEN MATCHED AND s."o" = 'u' THEN UPDATE SET "n" = s."c1"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("id", "n") VALUES (s."c0", s."c1");

-- stage a snapshot of foreign
CREATE OR REPLACE TRANSIENT TABLE "_eds_load_foreign" (
	"id" VARCHAR(16777216),
	"n" NUMBER(38,0),
	"_eds_row" NUMBER(38,0)
);
COPY INTO "_eds_load_foreign" ("id", "n", "_eds_row") FROM (
SELECT $1:c0::VARCHAR, $1:c1::VARCHAR::NUMBER(38,0), $1:n::NUMBER(38,0) FROM @"EDS_STAGE"/7.json.gz
) ON_ERROR = ABORT_STATEMENT;

-- remove rows that were staged twice of foreign
SELECT TO_VARCHAR(COALESCE(SUM(n - 1), 0)) FROM (SELECT COUNT(*) AS n FROM "_eds_load_foreign" GROUP BY "id" HAVING COUNT(*) > 1);
DELETE FROM "_eds_load_foreign" AS t USING (SELECT "id", MAX("_eds_row") AS "_eds_row" FROM "_eds_load_foreign" GROUP BY "id" HAVING COUNT(*) > 1) AS s WHERE t."id" = s."id" AND t."_eds_row" < s."_eds_row";

-- replace the rows of foreign
DELETE FROM "foreign" AS t WHERE NOT EXISTS (SELECT 1 FROM "_eds_load_foreign" AS s WHERE t."id" = s."id");
MERGE INTO "foreign" AS t USING "_eds_load_foreign" AS s ON t."id" = s."id"
WHEN MATCHED THEN UPDATE SET "n" = s."n"
WHEN NOT MATCHED THEN INSERT ("id", "n") VALUES (s."id", s."n");

-- merge the staged rows into foreign
MERGE INTO "foreign" AS t USING "_eds_load_foreign" AS s ON t."id" = s."id"
WHEN MATCHED THEN UPDATE SET "n" = s."n"
WHEN NOT MATCHED THEN INSERT ("id", "n") VALUES (s."id", s."n");

-- replace some rows of foreign
DELETE FROM "foreign" AS t WHERE t."id"::VARCHAR IN ('x', 'it''s \\ odd') AND NOT EXISTS (SELECT 1 FROM "_eds_load_foreign" AS s WHERE t."id" = s."id");
MERGE INTO "foreign" AS t USING "_eds_load_foreign" AS s ON t."id" = s."id"
WHEN MATCHED THEN UPDATE SET "n" = s."n"
WHEN NOT MATCHED THEN INSERT ("id", "n") VALUES (s."id", s."n");
SELECT TO_VARCHAR(COUNT(*)) FROM "foreign" AS t WHERE t."id"::VARCHAR IN ('x', 'it''s \\ odd');

-- read foreign
SELECT "id", TO_VARCHAR("n") FROM "foreign";

-- write a few rows to upper
MERGE INTO "UPPER" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR AS "c1", r:c2::VARCHAR AS "c2", r:c3::VARCHAR AS "c3", TO_TIMESTAMP_TZ(r:c4::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6TZH:TZM') AS "c4", r:c5::VARCHAR::BOOLEAN AS "c5" FROM (SELECT VALUE AS r FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?, 'd'))))
) AS s ON t."ID" = s."c0"
WHEN MATCHED AND s."o" = 'd' AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."c3") THEN UPDATE SET "_eds_op" = s."c2", "_eds_version" = s."c3", "_eds_synced_at" = s."c4", "_eds_deleted" = s."c5"
WHEN MATCHED AND s."o" = 'u' AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."c3") THEN UPDATE SET "NAME" = s."c1", "_eds_op" = s."c2", "_eds_version" = s."c3", "_eds_synced_at" = s."c4", "_eds_deleted" = s."c5"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("ID", "NAME", "_eds_op", "_eds_version", "_eds_synced_at", "_eds_deleted") VALUES (s."c0", s."c1", s."c2", s."c3", s."c4", s."c5");

-- write many rows to upper
MERGE INTO "UPPER" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR AS "c1", r:c2::VARCHAR AS "c2", r:c3::VARCHAR AS "c3", TO_TIMESTAMP_TZ(r:c4::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6TZH:TZM') AS "c4", r:c5::VARCHAR::BOOLEAN AS "c5" FROM (SELECT $1 AS r FROM @"EDS_STAGE"/7.json.gz)
) AS s ON t."ID" = s."c0"
WHEN MATCHED AND s."o" = 'd' AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."c3") THEN UPDATE SET "_eds_op" = s."c2", "_eds_version" = s."c3", "_eds_synced_at" = s."c4", "_eds_deleted" = s."c5"
WHEN MATCHED AND s."o" = 'u' AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."c3") THEN UPDATE SET "NAME" = s."c1", "_eds_op" = s."c2", "_eds_version" = s."c3", "_eds_synced_at" = s."c4", "_eds_deleted" = s."c5"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("ID", "NAME", "_eds_op", "_eds_version", "_eds_synced_at", "_eds_deleted") VALUES (s."c0", s."c1", s."c2", s."c3", s."c4", s."c5");

-- delete and insert rows again in upper
MERGE INTO "UPPER" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR AS "c1", r:c2::VARCHAR AS "c2", r:c3::VARCHAR AS "c3", TO_TIMESTAMP_TZ(r:c4::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6TZH:TZM') AS "c4", r:c5::VARCHAR::BOOLEAN AS "c5" FROM (SELECT VALUE AS r FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?, 'd')))) WHERE r:o::VARCHAR = 'd'
) AS s ON t."ID" = s."c0"
WHEN MATCHED AND s."o" = 'd' AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."c3") THEN UPDATE SET "_eds_op" = s."c2", "_eds_version" = s."c3", "_eds_synced_at" = s."c4", "_eds_deleted" = s."c5"
WHEN MATCHED AND s."o" = 'u' AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."c3") THEN UPDATE SET "NAME" = s."c1", "_eds_op" = s."c2", "_eds_version" = s."c3", "_eds_synced_at" = s."c4", "_eds_deleted" = s."c5"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("ID", "NAME", "_eds_op", "_eds_version", "_eds_synced_at", "_eds_deleted") VALUES (s."c0", s."c1", s."c2", s."c3", s."c4", s."c5");
MERGE INTO "UPPER" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR AS "c1", r:c2::VARCHAR AS "c2", r:c3::VARCHAR AS "c3", TO_TIMESTAMP_TZ(r:c4::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6TZH:TZM') AS "c4", r:c5::VARCHAR::BOOLEAN AS "c5" FROM (SELECT VALUE AS r FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?, 'd')))) WHERE r:o::VARCHAR = 'u'
) AS s ON t."ID" = s."c0"
WHEN MATCHED AND s."o" = 'd' AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."c3") THEN UPDATE SET "_eds_op" = s."c2", "_eds_version" = s."c3", "_eds_synced_at" = s."c4", "_eds_deleted" = s."c5"
WHEN MATCHED AND s."o" = 'u' AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."c3") THEN UPDATE SET "NAME" = s."c1", "_eds_op" = s."c2", "_eds_version" = s."c3", "_eds_synced_at" = s."c4", "_eds_deleted" = s."c5"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("ID", "NAME", "_eds_op", "_eds_version", "_eds_synced_at", "_eds_deleted") VALUES (s."c0", s."c1", s."c2", s."c3", s."c4", s."c5");

-- stage a snapshot of upper
CREATE OR REPLACE TRANSIENT TABLE "_eds_load_upper" (
	"ID" VARCHAR(16777216),
	"NAME" VARCHAR(16777216),
	"_eds_op" VARCHAR(16777216),
	"_eds_version" VARCHAR(16777216),
	"_eds_synced_at" TIMESTAMP_TZ(9),
	"_eds_deleted" BOOLEAN,
	"_eds_row" NUMBER(38,0)
);
COPY INTO "_eds_load_upper" ("ID", "NAME", "_eds_op", "_eds_version", "_eds_synced_at", "_eds_deleted", "_eds_row") FROM (
SELECT $1:c0::VARCHAR, $1:c1::VARCHAR, $1:c2::VARCHAR, $1:c3::VARCHAR, TO_TIMESTAMP_TZ($1:c4::VARCHAR, 'YYYY-MM-DD"T"HH24:MI:SS.FF6TZH:TZM'), $1:c5::VARCHAR::BOOLEAN, $1:n::NUMBER(38,0) FROM @"EDS_STAGE"/7.json.gz
) ON_ERROR = ABORT_STATEMENT;

-- remove rows that were staged twice of upper
SELECT TO_VARCHAR(COALESCE(SUM(n - 1), 0)) FROM (SELECT COUNT(*) AS n FROM "_eds_load_upper" GROUP BY "ID" HAVING COUNT(*) > 1);
DELETE FROM "_eds_load_upper" AS t USING (SELECT "ID", MAX("_eds_row") AS "_eds_row" FROM "_eds_load_upper" GROUP BY "ID" HAVING COUNT(*) > 1) AS s WHERE t."ID" = s."ID" AND t."_eds_row" < s."_eds_row";

-- replace the rows of upper
DELETE FROM "UPPER";
INSERT INTO "UPPER" ("ID", "NAME", "_eds_op", "_eds_version", "_eds_synced_at", "_eds_deleted")
SELECT "ID", "NAME", "_eds_op", "_eds_version", "_eds_synced_at", "_eds_deleted" FROM "_eds_load_upper";

-- merge the staged rows into upper
MERGE INTO "UPPER" AS t USING "_eds_load_upper" AS s ON t."ID" = s."ID"
WHEN MATCHED AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."_eds_version") THEN UPDATE SET "NAME" = s."NAME", "_eds_op" = s."_eds_op", "_eds_version" = s."_eds_version", "_eds_synced_at" = s."_eds_synced_at", "_eds_deleted" = s."_eds_deleted"
WHEN NOT MATCHED THEN INSERT ("ID", "NAME", "_eds_op", "_eds_version", "_eds_synced_at", "_eds_deleted") VALUES (s."ID", s."NAME", s."_eds_op", s."_eds_version", s."_eds_synced_at", s."_eds_deleted");

-- replace some rows of upper
DELETE FROM "UPPER" AS t WHERE t."ID"::VARCHAR IN ('x', 'it''s \\ odd') AND NOT EXISTS (SELECT 1 FROM "_eds_load_upper" AS s WHERE t."ID" = s."ID");
MERGE INTO "UPPER" AS t USING "_eds_load_upper" AS s ON t."ID" = s."ID"
WHEN MATCHED THEN UPDATE SET "NAME" = s."NAME", "_eds_op" = s."_eds_op", "_eds_version" = s."_eds_version", "_eds_synced_at" = s."_eds_synced_at", "_eds_deleted" = s."_eds_deleted"
WHEN NOT MATCHED THEN INSERT ("ID", "NAME", "_eds_op", "_eds_version", "_eds_synced_at", "_eds_deleted") VALUES (s."ID", s."NAME", s."_eds_op", s."_eds_version", s."_eds_synced_at", s."_eds_deleted");
SELECT TO_VARCHAR(COUNT(*)) FROM "UPPER" AS t WHERE t."ID"::VARCHAR IN ('x', 'it''s \\ odd');

-- read upper
SELECT "ID", "NAME" FROM "UPPER" WHERE NOT COALESCE("_eds_deleted", FALSE);

-- write a few rows to newer
MERGE INTO "newer" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR::FLOAT AS "c1", r:c2::VARCHAR AS "c2" FROM (SELECT VALUE AS r FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?, 'd'))))
) AS s ON t."id" = s."c0"
WHEN MATCHED AND s."o" = 'd' AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."c2") THEN DELETE
WHEN MATCHED AND s."o" = 'u' AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."c2") THEN UPDATE SET "n" = s."c1", "_eds_version" = s."c2"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("id", "n", "_eds_version") VALUES (s."c0", s."c1", s."c2");

-- write many rows to newer
MERGE INTO "newer" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR::FLOAT AS "c1", r:c2::VARCHAR AS "c2" FROM (SELECT $1 AS r FROM @"EDS_STAGE"/7.json.gz)
) AS s ON t."id" = s."c0"
WHEN MATCHED AND s."o" = 'd' AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."c2") THEN DELETE
WHEN MATCHED AND s."o" = 'u' AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."c2") THEN UPDATE SET "n" = s."c1", "_eds_version" = s."c2"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("id", "n", "_eds_version") VALUES (s."c0", s."c1", s."c2");

-- delete and insert rows again in newer
MERGE INTO "newer" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR::FLOAT AS "c1", r:c2::VARCHAR AS "c2" FROM (SELECT VALUE AS r FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?, 'd')))) WHERE r:o::VARCHAR = 'd'
) AS s ON t."id" = s."c0"
WHEN MATCHED AND s."o" = 'd' AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."c2") THEN DELETE
WHEN MATCHED AND s."o" = 'u' AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."c2") THEN UPDATE SET "n" = s."c1", "_eds_version" = s."c2"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("id", "n", "_eds_version") VALUES (s."c0", s."c1", s."c2");
MERGE INTO "newer" AS t USING (
SELECT r:o::VARCHAR AS "o", r:c0::VARCHAR AS "c0", r:c1::VARCHAR::FLOAT AS "c1", r:c2::VARCHAR AS "c2" FROM (SELECT VALUE AS r FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?, 'd')))) WHERE r:o::VARCHAR = 'u'
) AS s ON t."id" = s."c0"
WHEN MATCHED AND s."o" = 'd' AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."c2") THEN DELETE
WHEN MATCHED AND s."o" = 'u' AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."c2") THEN UPDATE SET "n" = s."c1", "_eds_version" = s."c2"
WHEN NOT MATCHED AND s."o" = 'u' THEN INSERT ("id", "n", "_eds_version") VALUES (s."c0", s."c1", s."c2");

-- stage a snapshot of newer
CREATE OR REPLACE TRANSIENT TABLE "_eds_load_newer" (
	"id" VARCHAR(16777216),
	"n" FLOAT,
	"_eds_version" VARCHAR(16777216),
	"_eds_row" NUMBER(38,0)
);
COPY INTO "_eds_load_newer" ("id", "n", "_eds_version", "_eds_row") FROM (
SELECT $1:c0::VARCHAR, $1:c1::VARCHAR::FLOAT, $1:c2::VARCHAR, $1:n::NUMBER(38,0) FROM @"EDS_STAGE"/7.json.gz
) ON_ERROR = ABORT_STATEMENT;

-- remove rows that were staged twice of newer
SELECT TO_VARCHAR(COALESCE(SUM(n - 1), 0)) FROM (SELECT COUNT(*) AS n FROM "_eds_load_newer" GROUP BY "id" HAVING COUNT(*) > 1);
DELETE FROM "_eds_load_newer" AS t USING (SELECT "id", MAX("_eds_row") AS "_eds_row" FROM "_eds_load_newer" GROUP BY "id" HAVING COUNT(*) > 1) AS s WHERE t."id" = s."id" AND t."_eds_row" < s."_eds_row";

-- replace the rows of newer
DELETE FROM "newer";
INSERT INTO "newer" ("id", "n", "_eds_version")
SELECT "id", "n", "_eds_version" FROM "_eds_load_newer";

-- merge the staged rows into newer
MERGE INTO "newer" AS t USING "_eds_load_newer" AS s ON t."id" = s."id"
WHEN MATCHED AND (t."_eds_version" IS NULL OR t."_eds_version" <= s."_eds_version") THEN UPDATE SET "n" = s."n", "_eds_version" = s."_eds_version"
WHEN NOT MATCHED THEN INSERT ("id", "n", "_eds_version") VALUES (s."id", s."n", s."_eds_version");

-- replace some rows of newer
DELETE FROM "newer" AS t WHERE t."id"::VARCHAR IN ('x', 'it''s \\ odd') AND NOT EXISTS (SELECT 1 FROM "_eds_load_newer" AS s WHERE t."id" = s."id");
MERGE INTO "newer" AS t USING "_eds_load_newer" AS s ON t."id" = s."id"
WHEN MATCHED THEN UPDATE SET "n" = s."n", "_eds_version" = s."_eds_version"
WHEN NOT MATCHED THEN INSERT ("id", "n", "_eds_version") VALUES (s."id", s."n", s."_eds_version");
SELECT TO_VARCHAR(COUNT(*)) FROM "newer" AS t WHERE t."id"::VARCHAR IN ('x', 'it''s \\ odd');

-- read newer
SELECT "id", "n" FROM "newer";

-- store the first checkpoint
MERGE INTO "_eds_checkpoint" AS t USING (SELECT ?::NUMBER(38,0) AS "position", ?::NUMBER(38,0) AS "stored", ? AS "stream", ? AS "consumer", ? AS "filter") AS s
ON t."stream" = s."stream" AND t."consumer" = s."consumer" AND t."filter" = s."filter"
WHEN NOT MATCHED THEN INSERT ("stream", "consumer", "filter", "position", "stored") VALUES (s."stream", s."consumer", s."filter", s."position", s."stored");

-- move the checkpoint
UPDATE "_eds_checkpoint" SET "position" = ?::NUMBER(38,0), "stored" = ?::NUMBER(38,0) WHERE "stream" = ? AND "consumer" = ? AND "filter" = ? AND "position" = ?::NUMBER(38,0) AND "stored" = ?::NUMBER(38,0);

