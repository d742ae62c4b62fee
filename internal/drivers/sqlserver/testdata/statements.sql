-- set up a session
SET XACT_ABORT ON; SET ANSI_NULLS ON; SET ANSI_PADDING ON; SET ANSI_WARNINGS ON;
SET ARITHABORT ON; SET CONCAT_NULL_YIELDS_NULL ON; SET QUOTED_IDENTIFIER ON;
SET NUMERIC_ROUNDABORT OFF; SET IMPLICIT_TRANSACTIONS OFF; SET NOCOUNT OFF;
SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
SET LOCK_TIMEOUT 30000;

-- set up a session
SELECT SCHEMA_NAME(), @@SPID, (SELECT delayed_durability FROM sys.databases WHERE name = DB_NAME())

-- set up a session
SELECT name FROM sys.schemas WHERE name = @p1

-- set up a session
CREATE SCHEMA [shop]

-- read the catalogue
SELECT o.name, c.name, COALESCE(b.name, u.name), c.max_length, c.precision, c.scale, c.collation_name, c.is_nullable, c.is_identity, c.is_computed,
CASE WHEN c.default_object_id <> 0 THEN 1 ELSE 0 END, c.generated_always_type,
CASE WHEN EXISTS (SELECT 1 FROM sys.index_columns AS x WHERE x.object_id = c.object_id AND x.column_id = c.column_id)
  OR EXISTS (SELECT 1 FROM sys.foreign_key_columns AS f WHERE f.parent_object_id = c.object_id AND f.parent_column_id = c.column_id)
  OR EXISTS (SELECT 1 FROM sys.sql_expression_dependencies AS d WHERE d.referenced_id = c.object_id AND d.referenced_minor_id = c.column_id AND d.is_schema_bound_reference = 1)
  THEN 1 ELSE 0 END
FROM sys.columns AS c
INNER JOIN sys.objects AS o ON o.object_id = c.object_id
INNER JOIN sys.schemas AS s ON s.schema_id = o.schema_id
INNER JOIN sys.types AS u ON u.user_type_id = c.user_type_id
LEFT JOIN sys.types AS b ON b.user_type_id = c.system_type_id
WHERE s.name = @p1 AND o.type IN ('U', 'V') AND o.name IN (@p2, @p3)
ORDER BY o.name, c.column_id

-- read the catalogue
SELECT o.name, CASE WHEN o.type = 'V' THEN 1 ELSE 0 END,
COALESCE((SELECT t.is_memory_optimized FROM sys.tables AS t WHERE t.object_id = o.object_id), 0),
COALESCE((SELECT t.temporal_type FROM sys.tables AS t WHERE t.object_id = o.object_id), 0),
(SELECT COUNT(*) FROM sys.triggers AS g WHERE g.parent_id = o.object_id AND g.is_disabled = 0),
(SELECT COUNT(*) FROM sys.triggers AS g WHERE g.parent_id = o.object_id AND g.is_instead_of_trigger = 1),
(SELECT COUNT(*) FROM sys.foreign_keys AS f WHERE f.parent_object_id = o.object_id OR f.referenced_object_id = o.object_id),
(SELECT COUNT(*) FROM sys.sql_expression_dependencies AS d INNER JOIN sys.indexes AS v ON v.object_id = d.referencing_id WHERE d.referenced_id = o.object_id),
(SELECT COUNT(*) FROM sys.indexes AS i WHERE i.object_id = o.object_id AND i.has_filter = 1),
o.object_id
FROM sys.objects AS o
INNER JOIN sys.schemas AS s ON s.schema_id = o.schema_id
WHERE s.name = @p1 AND o.type IN ('U', 'V') AND o.name IN (@p2, @p3)

-- read the catalogue
SELECT o.name, c.name
FROM sys.indexes AS i
INNER JOIN sys.objects AS o ON o.object_id = i.object_id
INNER JOIN sys.schemas AS s ON s.schema_id = o.schema_id
INNER JOIN sys.index_columns AS x ON x.object_id = i.object_id AND x.index_id = i.index_id
INNER JOIN sys.columns AS c ON c.object_id = x.object_id AND c.column_id = x.column_id
WHERE s.name = @p1 AND i.is_primary_key = 1 AND x.is_included_column = 0 AND o.name IN (@p2, @p3)
ORDER BY o.name, x.key_ordinal

-- create tables
CREATE TABLE [dbo].[order] (
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NOT NULL,
	[state] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[note]]s] NVARCHAR(MAX) NULL,
	[createdDate] DATETIMEOFFSET(6) NULL,
	[total] FLOAT(53) NULL,
	[count] BIGINT NULL,
	[taxed] BIT NULL,
	[meta] NVARCHAR(MAX) NULL,
	[tags] NVARCHAR(MAX) NULL,
	[_eds_version] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	PRIMARY KEY CLUSTERED ([id])
)

-- create tables
CREATE TABLE [dbo].[link] (
	[a] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NOT NULL,
	[b] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NOT NULL,
	PRIMARY KEY NONCLUSTERED ([a], [b])
)

-- add a column
ALTER TABLE [dbo].[order] ADD [email] NVARCHAR(MAX) NULL

-- widen INT to integer
ALTER TABLE [dbo].[order] ALTER COLUMN [c] BIGINT NULL

-- widen BIGINT to number
ALTER TABLE [dbo].[order] ALTER COLUMN [c] DECIMAL(38, 18) NULL

-- widen REAL to number
ALTER TABLE [dbo].[order] ALTER COLUMN [c] FLOAT(53) NULL

-- widen VARCHAR(10) to string
ALTER TABLE [dbo].[order] ALTER COLUMN [c] NVARCHAR(MAX) NULL

-- widen BIGINT to string
ALTER TABLE [dbo].[order] ALTER COLUMN [c] NVARCHAR(MAX) NULL

-- widen BIT to string
ALTER TABLE [dbo].[order] ADD [_eds_widen_c] NVARCHAR(MAX) NULL

-- widen BIT to string
UPDATE [dbo].[order] SET [_eds_widen_c] = CASE [c] WHEN 1 THEN N'true' WHEN 0 THEN N'false' END

-- widen BIT to string
ALTER TABLE [dbo].[order] ALTER COLUMN [c] BIT NULL

-- widen BIT to string
UPDATE [dbo].[order] SET [c] = NULL

-- widen BIT to string
ALTER TABLE [dbo].[order] ALTER COLUMN [c] NVARCHAR(MAX) NULL

-- widen BIT to string
UPDATE [dbo].[order] SET [c] = [_eds_widen_c]

-- widen BIT to string
ALTER TABLE [dbo].[order] DROP COLUMN [_eds_widen_c]

-- widen FLOAT(53) to string
ALTER TABLE [dbo].[order] ADD [_eds_widen_c] NVARCHAR(MAX) NULL

-- widen FLOAT(53) to string
UPDATE [dbo].[order] SET [_eds_widen_c] = CASE WHEN TRY_CONVERT(FLOAT(53), FORMAT([c], N'R', N'en-US')) = [c] THEN FORMAT([c], N'R', N'en-US') ELSE CONVERT(NVARCHAR(MAX), [c], 3) END

-- widen FLOAT(53) to string
ALTER TABLE [dbo].[order] ALTER COLUMN [c] FLOAT(53) NULL

-- widen FLOAT(53) to string
UPDATE [dbo].[order] SET [c] = NULL

-- widen FLOAT(53) to string
ALTER TABLE [dbo].[order] ALTER COLUMN [c] NVARCHAR(MAX) NULL

-- widen FLOAT(53) to string
UPDATE [dbo].[order] SET [c] = [_eds_widen_c]

-- widen FLOAT(53) to string
ALTER TABLE [dbo].[order] DROP COLUMN [_eds_widen_c]

-- widen DECIMAL(38, 18) to string
ALTER TABLE [dbo].[order] ADD [_eds_widen_c] NVARCHAR(MAX) NULL

-- widen DECIMAL(38, 18) to string
UPDATE [dbo].[order] SET [_eds_widen_c] = REPLACE(RTRIM(REPLACE(REPLACE(RTRIM(REPLACE(CONVERT(NVARCHAR(50), [c]), N'0', N' ')), N' ', N'0'), N'.', N' ')), N' ', N'.')

-- widen DECIMAL(38, 18) to string
ALTER TABLE [dbo].[order] ALTER COLUMN [c] DECIMAL(38, 18) NULL

-- widen DECIMAL(38, 18) to string
UPDATE [dbo].[order] SET [c] = NULL

-- widen DECIMAL(38, 18) to string
ALTER TABLE [dbo].[order] ALTER COLUMN [c] NVARCHAR(MAX) NULL

-- widen DECIMAL(38, 18) to string
UPDATE [dbo].[order] SET [c] = [_eds_widen_c]

-- widen DECIMAL(38, 18) to string
ALTER TABLE [dbo].[order] DROP COLUMN [_eds_widen_c]

-- widen DATETIMEOFFSET(6) to string
ALTER TABLE [dbo].[order] ADD [_eds_widen_c] NVARCHAR(MAX) NULL

-- widen DATETIMEOFFSET(6) to string
UPDATE [dbo].[order] SET [_eds_widen_c] = CONVERT(NVARCHAR(10), CAST(SWITCHOFFSET([c], N'+00:00') AS DATE), 23) + N'T' + CONVERT(NVARCHAR(15), CAST(SWITCHOFFSET([c], N'+00:00') AS TIME(6))) + N'Z'

-- widen DATETIMEOFFSET(6) to string
ALTER TABLE [dbo].[order] ALTER COLUMN [c] DATETIMEOFFSET(6) NULL

-- widen DATETIMEOFFSET(6) to string
UPDATE [dbo].[order] SET [c] = NULL

-- widen DATETIMEOFFSET(6) to string
ALTER TABLE [dbo].[order] ALTER COLUMN [c] NVARCHAR(MAX) NULL

-- widen DATETIMEOFFSET(6) to string
UPDATE [dbo].[order] SET [c] = [_eds_widen_c]

-- widen DATETIMEOFFSET(6) to string
ALTER TABLE [dbo].[order] DROP COLUMN [_eds_widen_c]

-- widen DATETIME2(3) to string
ALTER TABLE [dbo].[order] ADD [_eds_widen_c] NVARCHAR(MAX) NULL

-- widen DATETIME2(3) to string
UPDATE [dbo].[order] SET [_eds_widen_c] = CONVERT(NVARCHAR(10), CAST([c] AS DATE), 23) + N'T' + CONVERT(NVARCHAR(15), CAST([c] AS TIME(6))) + N'Z'

-- widen DATETIME2(3) to string
ALTER TABLE [dbo].[order] ALTER COLUMN [c] DATETIME2(3) NULL

-- widen DATETIME2(3) to string
UPDATE [dbo].[order] SET [c] = NULL

-- widen DATETIME2(3) to string
ALTER TABLE [dbo].[order] ALTER COLUMN [c] NVARCHAR(MAX) NULL

-- widen DATETIME2(3) to string
UPDATE [dbo].[order] SET [c] = [_eds_widen_c]

-- widen DATETIME2(3) to string
ALTER TABLE [dbo].[order] DROP COLUMN [_eds_widen_c]

-- widen DATE to string
ALTER TABLE [dbo].[order] ADD [_eds_widen_c] NVARCHAR(MAX) NULL

-- widen DATE to string
UPDATE [dbo].[order] SET [_eds_widen_c] = CONVERT(NVARCHAR(10), [c], 23)

-- widen DATE to string
ALTER TABLE [dbo].[order] ALTER COLUMN [c] DATE NULL

-- widen DATE to string
UPDATE [dbo].[order] SET [c] = NULL

-- widen DATE to string
ALTER TABLE [dbo].[order] ALTER COLUMN [c] NVARCHAR(MAX) NULL

-- widen DATE to string
UPDATE [dbo].[order] SET [c] = [_eds_widen_c]

-- widen DATE to string
ALTER TABLE [dbo].[order] DROP COLUMN [_eds_widen_c]

-- relax a column
ALTER TABLE [dbo].[order] ALTER COLUMN [c] NVARCHAR(10) COLLATE Latin1_General_100_CI_AS NULL

-- delete from table "order" by parameters @p1 NVARCHAR(255), @p2 BIGINT, @p3 NVARCHAR(255), @p4 BIGINT
DELETE T
FROM [dbo].[order] AS T INNER JOIN (VALUES (@p1, @p2), (@p3, @p4)) AS S ([id], [n])
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n];

-- delete from table "order" by a temporary table
CREATE TABLE [#eds_keys_2239161f993137d1] (
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[n] BIGINT NULL
)

-- delete from table "order" by a temporary table
DELETE T
FROM [dbo].[order] AS T INNER JOIN [#eds_keys_2239161f993137d1] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n];
TRUNCATE TABLE [#eds_keys_2239161f993137d1];

-- upsert into table "order" by parameters @p1 NVARCHAR(255), @p2 BIGINT, @p3 NVARCHAR(MAX), @p4 NVARCHAR(255), @p5 BIGINT, @p6 NVARCHAR(MAX)
MERGE INTO [dbo].[order] WITH (HOLDLOCK) AS T
USING (VALUES (@p1, @p2, @p3), (@p4, @p5, @p6)) AS S ([id], [n], [it's [odd]]])
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n]
WHEN MATCHED THEN UPDATE SET [it's [odd]]] = S.[it's [odd]]]
WHEN NOT MATCHED BY TARGET THEN INSERT ([id], [n], [it's [odd]]]) VALUES (S.[id], S.[n], S.[it's [odd]]]);

-- upsert into table "order" by a temporary table
CREATE TABLE [#eds_rows_2239161f993137d1] (
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[n] BIGINT NULL,
	[it's [odd]]] NVARCHAR(MAX) COLLATE Latin1_General_100_BIN2 NULL
)

-- upsert into table "order" by a temporary table
MERGE INTO [dbo].[order] WITH (HOLDLOCK) AS T
USING [#eds_rows_2239161f993137d1] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n]
WHEN MATCHED THEN UPDATE SET [it's [odd]]] = S.[it's [odd]]]
WHEN NOT MATCHED BY TARGET THEN INSERT ([id], [n], [it's [odd]]]) VALUES (S.[id], S.[n], S.[it's [odd]]]);
TRUNCATE TABLE [#eds_rows_2239161f993137d1];

-- read order
SELECT [id], [n], [it's [odd]]] FROM [dbo].[order]

-- stage a load of order
CREATE TABLE [dbo].[_eds_load_x] (
	[_eds_row] BIGINT IDENTITY(1, 1) NOT NULL,
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NOT NULL,
	[n] BIGINT NOT NULL,
	[it's [odd]]] NVARCHAR(MAX) COLLATE Latin1_General_100_BIN2 NULL
)

-- replace the rows of order
TRUNCATE TABLE [dbo].[order]

-- replace the rows of order
INSERT INTO [dbo].[order] WITH (TABLOCK) ([id], [n], [it's [odd]]])
SELECT S.[id], S.[n], S.[it's [odd]]]
FROM [dbo].[_eds_load_x] AS S;

-- replace the rows of order
DROP TABLE [dbo].[_eds_load_x]

-- merge into order
MERGE INTO [dbo].[order] WITH (HOLDLOCK) AS T
USING [dbo].[_eds_load_x] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n]
WHEN MATCHED THEN UPDATE SET [it's [odd]]] = S.[it's [odd]]]
WHEN NOT MATCHED BY TARGET THEN INSERT ([id], [n], [it's [odd]]]) VALUES (S.[id], S.[n], S.[it's [odd]]]);

-- merge into order
DROP TABLE [dbo].[_eds_load_x]

-- replace some rows of order
DELETE T
FROM [dbo].[order] AS T WITH (TABLOCKX)
WHERE CAST(T.[id] AS NVARCHAR(MAX)) COLLATE Latin1_General_100_BIN2 IN (N'x', N'it''s \ odd') AND NOT EXISTS (SELECT 1 FROM [dbo].[_eds_load_x] AS S WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n]);

-- replace some rows of order
MERGE INTO [dbo].[order] WITH (HOLDLOCK) AS T
USING [dbo].[_eds_load_x] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n]
WHEN MATCHED THEN UPDATE SET [it's [odd]]] = S.[it's [odd]]]
WHEN NOT MATCHED BY TARGET THEN INSERT ([id], [n], [it's [odd]]]) VALUES (S.[id], S.[n], S.[it's [odd]]]);

-- replace some rows of order
DROP TABLE [dbo].[_eds_load_x]

-- replace some rows of order
SELECT COUNT_BIG(*) FROM [dbo].[order] AS T
WHERE CAST(T.[id] AS NVARCHAR(MAX)) COLLATE Latin1_General_100_BIN2 IN (N'x', N'it''s \ odd');

-- delete from table "link" by parameters @p1 NVARCHAR(255), @p2 BIGINT, @p3 NVARCHAR(255), @p4 BIGINT
DELETE T
FROM [dbo].[link] AS T INNER JOIN (VALUES (@p1, @p2), (@p3, @p4)) AS S ([id], [n])
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n];

-- delete from table "link" by a temporary table
CREATE TABLE [#eds_keys_762e85bf1b14c31e] (
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[n] BIGINT NULL
)

-- delete from table "link" by a temporary table
DELETE T
FROM [dbo].[link] AS T INNER JOIN [#eds_keys_762e85bf1b14c31e] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n];
TRUNCATE TABLE [#eds_keys_762e85bf1b14c31e];

-- upsert into table "link" by parameters @p1 NVARCHAR(255), @p2 BIGINT, @p3 NVARCHAR(255), @p4 BIGINT
MERGE INTO [dbo].[link] WITH (HOLDLOCK) AS T
USING (VALUES (@p1, @p2), (@p3, @p4)) AS S ([id], [n])
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n]
WHEN NOT MATCHED BY TARGET THEN INSERT ([id], [n]) VALUES (S.[id], S.[n]);

-- upsert into table "link" by a temporary table
CREATE TABLE [#eds_rows_762e85bf1b14c31e] (
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[n] BIGINT NULL
)

-- upsert into table "link" by a temporary table
MERGE INTO [dbo].[link] WITH (HOLDLOCK) AS T
USING [#eds_rows_762e85bf1b14c31e] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n]
WHEN NOT MATCHED BY TARGET THEN INSERT ([id], [n]) VALUES (S.[id], S.[n]);
TRUNCATE TABLE [#eds_rows_762e85bf1b14c31e];

-- read link
SELECT [id], [n] FROM [dbo].[link]

-- stage a load of link
CREATE TABLE [dbo].[_eds_load_x] (
	[_eds_row] BIGINT IDENTITY(1, 1) NOT NULL,
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NOT NULL,
	[n] BIGINT NOT NULL
)

-- replace the rows of link
TRUNCATE TABLE [dbo].[link]

-- replace the rows of link
INSERT INTO [dbo].[link] WITH (TABLOCK) ([id], [n])
SELECT S.[id], S.[n]
FROM [dbo].[_eds_load_x] AS S;

-- replace the rows of link
DROP TABLE [dbo].[_eds_load_x]

-- merge into link
MERGE INTO [dbo].[link] WITH (HOLDLOCK) AS T
USING [dbo].[_eds_load_x] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n]
WHEN NOT MATCHED BY TARGET THEN INSERT ([id], [n]) VALUES (S.[id], S.[n]);

-- merge into link
DROP TABLE [dbo].[_eds_load_x]

-- replace some rows of link
DELETE T
FROM [dbo].[link] AS T WITH (TABLOCKX)
WHERE CAST(T.[id] AS NVARCHAR(MAX)) COLLATE Latin1_General_100_BIN2 IN (N'x', N'it''s \ odd') AND NOT EXISTS (SELECT 1 FROM [dbo].[_eds_load_x] AS S WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n]);

-- replace some rows of link
MERGE INTO [dbo].[link] WITH (HOLDLOCK) AS T
USING [dbo].[_eds_load_x] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n]
WHEN NOT MATCHED BY TARGET THEN INSERT ([id], [n]) VALUES (S.[id], S.[n]);

-- replace some rows of link
DROP TABLE [dbo].[_eds_load_x]

-- replace some rows of link
SELECT COUNT_BIG(*) FROM [dbo].[link] AS T
WHERE CAST(T.[id] AS NVARCHAR(MAX)) COLLATE Latin1_General_100_BIN2 IN (N'x', N'it''s \ odd');

-- delete from table "odd" by parameters @p1 NVARCHAR(255), @p2 NVARCHAR(255)
DELETE T
FROM [dbo].[odd] AS T INNER JOIN (VALUES (@p1), (@p2)) AS S ([id])
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2;

-- delete from table "odd" by a temporary table
CREATE TABLE [#eds_keys_b17656f3453aa001] (
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL
)

-- delete from table "odd" by a temporary table
DELETE T
FROM [dbo].[odd] AS T INNER JOIN [#eds_keys_b17656f3453aa001] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2;
TRUNCATE TABLE [#eds_keys_b17656f3453aa001];

-- upsert into table "odd" by parameters @p1 NVARCHAR(255), @p2 NVARCHAR(MAX), @p3 NVARCHAR(255), @p4 NVARCHAR(MAX)
UPDATE T SET [it's [odd]]] = S.[it's [odd]]]
FROM [dbo].[odd] AS T WITH (UPDLOCK, HOLDLOCK) INNER JOIN (VALUES (@p1, @p2), (@p3, @p4)) AS S ([id], [it's [odd]]])
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2;
INSERT INTO [dbo].[odd] ([id], [it's [odd]]])
SELECT S.[id], S.[it's [odd]]]
FROM (VALUES (@p1, @p2), (@p3, @p4)) AS S ([id], [it's [odd]]])
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[odd] AS T WITH (UPDLOCK, HOLDLOCK) WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2);

-- upsert into table "odd" by a temporary table
CREATE TABLE [#eds_rows_b17656f3453aa001] (
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[it's [odd]]] NVARCHAR(MAX) COLLATE Latin1_General_100_BIN2 NULL
)

-- upsert into table "odd" by a temporary table
UPDATE T SET [it's [odd]]] = S.[it's [odd]]]
FROM [dbo].[odd] AS T WITH (UPDLOCK, HOLDLOCK) INNER JOIN [#eds_rows_b17656f3453aa001] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2;
INSERT INTO [dbo].[odd] ([id], [it's [odd]]])
SELECT S.[id], S.[it's [odd]]]
FROM [#eds_rows_b17656f3453aa001] AS S
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[odd] AS T WITH (UPDLOCK, HOLDLOCK) WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2);
TRUNCATE TABLE [#eds_rows_b17656f3453aa001];

-- read odd
SELECT [id], [it's [odd]]] FROM [dbo].[odd]

-- stage a load of odd
CREATE TABLE [dbo].[_eds_load_x] (
	[_eds_row] BIGINT IDENTITY(1, 1) NOT NULL,
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NOT NULL,
	[it's [odd]]] NVARCHAR(MAX) COLLATE Latin1_General_100_BIN2 NULL
)

-- replace the rows of odd
DELETE T
FROM [dbo].[odd] AS T WITH (TABLOCKX)
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[_eds_load_x] AS S WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2);

-- replace the rows of odd
UPDATE T SET [it's [odd]]] = S.[it's [odd]]]
FROM [dbo].[odd] AS T WITH (UPDLOCK, HOLDLOCK) INNER JOIN [dbo].[_eds_load_x] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2;
INSERT INTO [dbo].[odd] ([id], [it's [odd]]])
SELECT S.[id], S.[it's [odd]]]
FROM [dbo].[_eds_load_x] AS S
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[odd] AS T WITH (UPDLOCK, HOLDLOCK) WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2);

-- replace the rows of odd
DROP TABLE [dbo].[_eds_load_x]

-- merge into odd
UPDATE T SET [it's [odd]]] = S.[it's [odd]]]
FROM [dbo].[odd] AS T WITH (UPDLOCK, HOLDLOCK) INNER JOIN [dbo].[_eds_load_x] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2;
INSERT INTO [dbo].[odd] ([id], [it's [odd]]])
SELECT S.[id], S.[it's [odd]]]
FROM [dbo].[_eds_load_x] AS S
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[odd] AS T WITH (UPDLOCK, HOLDLOCK) WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2);

-- merge into odd
DROP TABLE [dbo].[_eds_load_x]

-- replace some rows of odd
DELETE T
FROM [dbo].[odd] AS T WITH (TABLOCKX)
WHERE CAST(T.[id] AS NVARCHAR(MAX)) COLLATE Latin1_General_100_BIN2 IN (N'x', N'it''s \ odd') AND NOT EXISTS (SELECT 1 FROM [dbo].[_eds_load_x] AS S WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2);

-- replace some rows of odd
UPDATE T SET [it's [odd]]] = S.[it's [odd]]]
FROM [dbo].[odd] AS T WITH (UPDLOCK, HOLDLOCK) INNER JOIN [dbo].[_eds_load_x] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2;
INSERT INTO [dbo].[odd] ([id], [it's [odd]]])
SELECT S.[id], S.[it's [odd]]]
FROM [dbo].[_eds_load_x] AS S
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[odd] AS T WITH (UPDLOCK, HOLDLOCK) WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2);

-- replace some rows of odd
DROP TABLE [dbo].[_eds_load_x]

-- replace some rows of odd
SELECT COUNT_BIG(*) FROM [dbo].[odd] AS T
WHERE CAST(T.[id] AS NVARCHAR(MAX)) COLLATE Latin1_General_100_BIN2 IN (N'x', N'it''s \ odd');

-- delete from table "odd link" by parameters @p1 NVARCHAR(255), @p2 BIGINT, @p3 NVARCHAR(255), @p4 BIGINT
DELETE T
FROM [dbo].[odd link] AS T INNER JOIN (VALUES (@p1, @p2), (@p3, @p4)) AS S ([id], [n])
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n];

-- delete from table "odd link" by a temporary table
CREATE TABLE [#eds_keys_32f9b5ed94ec56ab] (
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[n] BIGINT NULL
)

-- delete from table "odd link" by a temporary table
DELETE T
FROM [dbo].[odd link] AS T INNER JOIN [#eds_keys_32f9b5ed94ec56ab] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n];
TRUNCATE TABLE [#eds_keys_32f9b5ed94ec56ab];

-- upsert into table "odd link" by parameters @p1 NVARCHAR(255), @p2 BIGINT, @p3 NVARCHAR(255), @p4 BIGINT
INSERT INTO [dbo].[odd link] ([id], [n])
SELECT S.[id], S.[n]
FROM (VALUES (@p1, @p2), (@p3, @p4)) AS S ([id], [n])
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[odd link] AS T WITH (UPDLOCK, HOLDLOCK) WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n]);

-- upsert into table "odd link" by a temporary table
CREATE TABLE [#eds_rows_32f9b5ed94ec56ab] (
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[n] BIGINT NULL
)

-- upsert into table "odd link" by a temporary table
INSERT INTO [dbo].[odd link] ([id], [n])
SELECT S.[id], S.[n]
FROM [#eds_rows_32f9b5ed94ec56ab] AS S
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[odd link] AS T WITH (UPDLOCK, HOLDLOCK) WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n]);
TRUNCATE TABLE [#eds_rows_32f9b5ed94ec56ab];

-- read odd link
SELECT [id], [n] FROM [dbo].[odd link]

-- stage a load of odd link
CREATE TABLE [dbo].[_eds_load_x] (
	[_eds_row] BIGINT IDENTITY(1, 1) NOT NULL,
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NOT NULL,
	[n] BIGINT NOT NULL
)

-- replace the rows of odd link
DELETE T
FROM [dbo].[odd link] AS T WITH (TABLOCKX)
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[_eds_load_x] AS S WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n]);

-- replace the rows of odd link
INSERT INTO [dbo].[odd link] ([id], [n])
SELECT S.[id], S.[n]
FROM [dbo].[_eds_load_x] AS S
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[odd link] AS T WITH (UPDLOCK, HOLDLOCK) WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n]);

-- replace the rows of odd link
DROP TABLE [dbo].[_eds_load_x]

-- merge into odd link
INSERT INTO [dbo].[odd link] ([id], [n])
SELECT S.[id], S.[n]
FROM [dbo].[_eds_load_x] AS S
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[odd link] AS T WITH (UPDLOCK, HOLDLOCK) WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n]);

-- merge into odd link
DROP TABLE [dbo].[_eds_load_x]

-- replace some rows of odd link
DELETE T
FROM [dbo].[odd link] AS T WITH (TABLOCKX)
WHERE CAST(T.[id] AS NVARCHAR(MAX)) COLLATE Latin1_General_100_BIN2 IN (N'x', N'it''s \ odd') AND NOT EXISTS (SELECT 1 FROM [dbo].[_eds_load_x] AS S WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n]);

-- replace some rows of odd link
INSERT INTO [dbo].[odd link] ([id], [n])
SELECT S.[id], S.[n]
FROM [dbo].[_eds_load_x] AS S
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[odd link] AS T WITH (UPDLOCK, HOLDLOCK) WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n]);

-- replace some rows of odd link
DROP TABLE [dbo].[_eds_load_x]

-- replace some rows of odd link
SELECT COUNT_BIG(*) FROM [dbo].[odd link] AS T
WHERE CAST(T.[id] AS NVARCHAR(MAX)) COLLATE Latin1_General_100_BIN2 IN (N'x', N'it''s \ odd');

-- delete from table "foreign" by parameters @p1 VARCHAR(40), @p2 VARCHAR(40)
DELETE T
FROM [dbo].[foreign] AS T INNER JOIN (VALUES (@p1), (@p2)) AS S ([code])
ON T.[code] = S.[code] COLLATE SQL_Latin1_General_CP1_CI_AS AND T.[code] = S.[code] COLLATE Latin1_General_100_BIN2;

-- delete from table "foreign" by a temporary table
CREATE TABLE [#eds_keys_a4c365e573b9bc17] (
	[code] VARCHAR(40) COLLATE Latin1_General_100_BIN2 NULL
)

-- delete from table "foreign" by a temporary table
DELETE T
FROM [dbo].[foreign] AS T INNER JOIN [#eds_keys_a4c365e573b9bc17] AS S
ON T.[code] = S.[code] COLLATE SQL_Latin1_General_CP1_CI_AS AND T.[code] = S.[code] COLLATE Latin1_General_100_BIN2;
TRUNCATE TABLE [#eds_keys_a4c365e573b9bc17];

-- upsert into table "foreign" by parameters @p1 VARCHAR(40), @p2 NVARCHAR(MAX), @p3 DECIMAL(12, 2), @p4 VARBINARY(MAX), @p5 DECIMAL(19, 4), @p6 VARCHAR(40), @p7 NVARCHAR(MAX), @p8 DECIMAL(12, 2), @p9 VARBINARY(MAX), @p10 DECIMAL(19, 4)
MERGE INTO [dbo].[foreign] WITH (HOLDLOCK) AS T
USING (VALUES (@p1, @p2, @p3, @p4, @p5), (@p6, @p7, @p8, @p9, @p10)) AS S ([code], [doc], [total], [raw], [cost])
ON T.[code] = S.[code] COLLATE SQL_Latin1_General_CP1_CI_AS AND T.[code] = S.[code] COLLATE Latin1_General_100_BIN2
WHEN MATCHED THEN UPDATE SET [doc] = CAST(S.[doc] AS XML), [total] = S.[total], [raw] = S.[raw], [cost] = S.[cost]
WHEN NOT MATCHED BY TARGET THEN INSERT ([code], [doc], [total], [raw], [cost]) VALUES (S.[code], CAST(S.[doc] AS XML), S.[total], S.[raw], S.[cost]);

-- upsert into table "foreign" by a temporary table
CREATE TABLE [#eds_rows_a4c365e573b9bc17] (
	[code] VARCHAR(40) COLLATE Latin1_General_100_BIN2 NULL,
	[doc] NVARCHAR(MAX) NULL,
	[total] DECIMAL(12, 2) NULL,
	[raw] VARBINARY(MAX) NULL,
	[cost] DECIMAL(19, 4) NULL
)

-- upsert into table "foreign" by a temporary table
MERGE INTO [dbo].[foreign] WITH (HOLDLOCK) AS T
USING [#eds_rows_a4c365e573b9bc17] AS S
ON T.[code] = S.[code] COLLATE SQL_Latin1_General_CP1_CI_AS AND T.[code] = S.[code] COLLATE Latin1_General_100_BIN2
WHEN MATCHED THEN UPDATE SET [doc] = CAST(S.[doc] AS XML), [total] = S.[total], [raw] = S.[raw], [cost] = S.[cost]
WHEN NOT MATCHED BY TARGET THEN INSERT ([code], [doc], [total], [raw], [cost]) VALUES (S.[code], CAST(S.[doc] AS XML), S.[total], S.[raw], S.[cost]);
TRUNCATE TABLE [#eds_rows_a4c365e573b9bc17];

-- read foreign
SELECT [code], CAST([doc] AS NVARCHAR(MAX)), [total], CONVERT(VARCHAR(MAX), CAST([raw] AS VARBINARY(MAX)), 1), CAST([cost] AS DECIMAL(19, 4)) FROM [dbo].[foreign]

-- stage a load of foreign
CREATE TABLE [dbo].[_eds_load_x] (
	[_eds_row] BIGINT IDENTITY(1, 1) NOT NULL,
	[code] VARCHAR(40) COLLATE Latin1_General_100_BIN2 NOT NULL,
	[doc] NVARCHAR(MAX) NULL,
	[total] DECIMAL(12, 2) NULL,
	[raw] VARBINARY(MAX) NULL,
	[cost] DECIMAL(19, 4) NULL
)

-- replace the rows of foreign
TRUNCATE TABLE [dbo].[foreign]

-- replace the rows of foreign
INSERT INTO [dbo].[foreign] WITH (TABLOCK) ([code], [doc], [total], [raw], [cost])
SELECT S.[code], CAST(S.[doc] AS XML), S.[total], S.[raw], S.[cost]
FROM [dbo].[_eds_load_x] AS S;

-- replace the rows of foreign
DROP TABLE [dbo].[_eds_load_x]

-- merge into foreign
MERGE INTO [dbo].[foreign] WITH (HOLDLOCK) AS T
USING [dbo].[_eds_load_x] AS S
ON T.[code] = S.[code] COLLATE SQL_Latin1_General_CP1_CI_AS AND T.[code] = S.[code] COLLATE Latin1_General_100_BIN2
WHEN MATCHED THEN UPDATE SET [doc] = CAST(S.[doc] AS XML), [total] = S.[total], [raw] = S.[raw], [cost] = S.[cost]
WHEN NOT MATCHED BY TARGET THEN INSERT ([code], [doc], [total], [raw], [cost]) VALUES (S.[code], CAST(S.[doc] AS XML), S.[total], S.[raw], S.[cost]);

-- merge into foreign
DROP TABLE [dbo].[_eds_load_x]

-- replace some rows of foreign
DELETE T
FROM [dbo].[foreign] AS T WITH (TABLOCKX)
WHERE CAST(T.[code] AS NVARCHAR(MAX)) COLLATE Latin1_General_100_BIN2 IN (N'x', N'it''s \ odd') AND NOT EXISTS (SELECT 1 FROM [dbo].[_eds_load_x] AS S WHERE T.[code] = S.[code] COLLATE SQL_Latin1_General_CP1_CI_AS AND T.[code] = S.[code] COLLATE Latin1_General_100_BIN2);

-- replace some rows of foreign
MERGE INTO [dbo].[foreign] WITH (HOLDLOCK) AS T
USING [dbo].[_eds_load_x] AS S
ON T.[code] = S.[code] COLLATE SQL_Latin1_General_CP1_CI_AS AND T.[code] = S.[code] COLLATE Latin1_General_100_BIN2
WHEN MATCHED THEN UPDATE SET [doc] = CAST(S.[doc] AS XML), [total] = S.[total], [raw] = S.[raw], [cost] = S.[cost]
WHEN NOT MATCHED BY TARGET THEN INSERT ([code], [doc], [total], [raw], [cost]) VALUES (S.[code], CAST(S.[doc] AS XML), S.[total], S.[raw], S.[cost]);

-- replace some rows of foreign
DROP TABLE [dbo].[_eds_load_x]

-- replace some rows of foreign
SELECT COUNT_BIG(*) FROM [dbo].[foreign] AS T
WHERE CAST(T.[code] AS NVARCHAR(MAX)) COLLATE Latin1_General_100_BIN2 IN (N'x', N'it''s \ odd');

-- delete from table "numbered" by parameters @p1 INT, @p2 INT
DELETE T
FROM [dbo].[numbered] AS T INNER JOIN (VALUES (@p1), (@p2)) AS S ([number])
ON T.[number] = S.[number];

-- delete from table "numbered" by a temporary table
CREATE TABLE [#eds_keys_524d6632a8695b01] (
	[number] INT NULL
)

-- delete from table "numbered" by a temporary table
DELETE T
FROM [dbo].[numbered] AS T INNER JOIN [#eds_keys_524d6632a8695b01] AS S
ON T.[number] = S.[number];
TRUNCATE TABLE [#eds_keys_524d6632a8695b01];

-- upsert into table "numbered" by parameters @p1 INT, @p2 NVARCHAR(MAX), @p3 INT, @p4 NVARCHAR(MAX)
SET IDENTITY_INSERT [dbo].[numbered] ON;
MERGE INTO [dbo].[numbered] WITH (HOLDLOCK) AS T
USING (VALUES (@p1, @p2), (@p3, @p4)) AS S ([number], [it's [odd]]])
ON T.[number] = S.[number]
WHEN MATCHED THEN UPDATE SET [it's [odd]]] = S.[it's [odd]]]
WHEN NOT MATCHED BY TARGET THEN INSERT ([number], [it's [odd]]]) VALUES (S.[number], S.[it's [odd]]]);
SET IDENTITY_INSERT [dbo].[numbered] OFF;

-- upsert into table "numbered" by a temporary table
CREATE TABLE [#eds_rows_524d6632a8695b01] (
	[number] INT NULL,
	[it's [odd]]] NVARCHAR(MAX) COLLATE Latin1_General_100_BIN2 NULL
)

-- upsert into table "numbered" by a temporary table
SET IDENTITY_INSERT [dbo].[numbered] ON;
MERGE INTO [dbo].[numbered] WITH (HOLDLOCK) AS T
USING [#eds_rows_524d6632a8695b01] AS S
ON T.[number] = S.[number]
WHEN MATCHED THEN UPDATE SET [it's [odd]]] = S.[it's [odd]]]
WHEN NOT MATCHED BY TARGET THEN INSERT ([number], [it's [odd]]]) VALUES (S.[number], S.[it's [odd]]]);
SET IDENTITY_INSERT [dbo].[numbered] OFF;
TRUNCATE TABLE [#eds_rows_524d6632a8695b01];

-- read numbered
SELECT [number], [it's [odd]]] FROM [dbo].[numbered]

-- stage a load of numbered
CREATE TABLE [dbo].[_eds_load_x] (
	[_eds_row] BIGINT IDENTITY(1, 1) NOT NULL,
	[number] INT NOT NULL,
	[it's [odd]]] NVARCHAR(MAX) COLLATE Latin1_General_100_BIN2 NULL
)

-- replace the rows of numbered
TRUNCATE TABLE [dbo].[numbered]

-- replace the rows of numbered
SET IDENTITY_INSERT [dbo].[numbered] ON;
INSERT INTO [dbo].[numbered] WITH (TABLOCK) ([number], [it's [odd]]])
SELECT S.[number], S.[it's [odd]]]
FROM [dbo].[_eds_load_x] AS S;
SET IDENTITY_INSERT [dbo].[numbered] OFF;

-- replace the rows of numbered
DROP TABLE [dbo].[_eds_load_x]

-- merge into numbered
SET IDENTITY_INSERT [dbo].[numbered] ON;
MERGE INTO [dbo].[numbered] WITH (HOLDLOCK) AS T
USING [dbo].[_eds_load_x] AS S
ON T.[number] = S.[number]
WHEN MATCHED THEN UPDATE SET [it's [odd]]] = S.[it's [odd]]]
WHEN NOT MATCHED BY TARGET THEN INSERT ([number], [it's [odd]]]) VALUES (S.[number], S.[it's [odd]]]);
SET IDENTITY_INSERT [dbo].[numbered] OFF;

-- merge into numbered
DROP TABLE [dbo].[_eds_load_x]

-- replace some rows of numbered
DELETE T
FROM [dbo].[numbered] AS T WITH (TABLOCKX)
WHERE CAST(T.[number] AS NVARCHAR(MAX)) COLLATE Latin1_General_100_BIN2 IN (N'x', N'it''s \ odd') AND NOT EXISTS (SELECT 1 FROM [dbo].[_eds_load_x] AS S WHERE T.[number] = S.[number]);

-- replace some rows of numbered
SET IDENTITY_INSERT [dbo].[numbered] ON;
MERGE INTO [dbo].[numbered] WITH (HOLDLOCK) AS T
USING [dbo].[_eds_load_x] AS S
ON T.[number] = S.[number]
WHEN MATCHED THEN UPDATE SET [it's [odd]]] = S.[it's [odd]]]
WHEN NOT MATCHED BY TARGET THEN INSERT ([number], [it's [odd]]]) VALUES (S.[number], S.[it's [odd]]]);
SET IDENTITY_INSERT [dbo].[numbered] OFF;

-- replace some rows of numbered
DROP TABLE [dbo].[_eds_load_x]

-- replace some rows of numbered
SELECT COUNT_BIG(*) FROM [dbo].[numbered] AS T
WHERE CAST(T.[number] AS NVARCHAR(MAX)) COLLATE Latin1_General_100_BIN2 IN (N'x', N'it''s \ odd');

-- delete from table "guarded" by parameters @p1 NVARCHAR(255), @p2 NVARCHAR(255), @p3 NVARCHAR(255), @p4 NVARCHAR(255)
DELETE T
FROM [dbo].[guarded] AS T INNER JOIN (VALUES (@p1, @p2), (@p3, @p4)) AS S ([id], [_eds_version])
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2
WHERE (T.[_eds_version] IS NULL OR T.[_eds_version] <= S.[_eds_version] COLLATE Latin1_General_100_BIN2);

-- delete from table "guarded" by a temporary table
CREATE TABLE [#eds_keys_abe882233f89db1e] (
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[_eds_version] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL
)

-- delete from table "guarded" by a temporary table
DELETE T
FROM [dbo].[guarded] AS T INNER JOIN [#eds_keys_abe882233f89db1e] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2
WHERE (T.[_eds_version] IS NULL OR T.[_eds_version] <= S.[_eds_version] COLLATE Latin1_General_100_BIN2);
TRUNCATE TABLE [#eds_keys_abe882233f89db1e];

-- upsert into table "guarded" by parameters @p1 NVARCHAR(255), @p2 NVARCHAR(MAX), @p3 NVARCHAR(255), @p4 NVARCHAR(255), @p5 NVARCHAR(MAX), @p6 NVARCHAR(255)
MERGE INTO [dbo].[guarded] WITH (HOLDLOCK) AS T
USING (VALUES (@p1, @p2, @p3), (@p4, @p5, @p6)) AS S ([id], [it's [odd]]], [_eds_version])
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2
WHEN MATCHED AND (T.[_eds_version] IS NULL OR T.[_eds_version] <= S.[_eds_version] COLLATE Latin1_General_100_BIN2) THEN UPDATE SET [it's [odd]]] = S.[it's [odd]]], [_eds_version] = S.[_eds_version]
WHEN NOT MATCHED BY TARGET THEN INSERT ([id], [it's [odd]]], [_eds_version]) VALUES (S.[id], S.[it's [odd]]], S.[_eds_version]);

-- upsert into table "guarded" by a temporary table
CREATE TABLE [#eds_rows_abe882233f89db1e] (
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[it's [odd]]] NVARCHAR(MAX) COLLATE Latin1_General_100_BIN2 NULL,
	[_eds_version] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL
)

-- upsert into table "guarded" by a temporary table
MERGE INTO [dbo].[guarded] WITH (HOLDLOCK) AS T
USING [#eds_rows_abe882233f89db1e] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2
WHEN MATCHED AND (T.[_eds_version] IS NULL OR T.[_eds_version] <= S.[_eds_version] COLLATE Latin1_General_100_BIN2) THEN UPDATE SET [it's [odd]]] = S.[it's [odd]]], [_eds_version] = S.[_eds_version]
WHEN NOT MATCHED BY TARGET THEN INSERT ([id], [it's [odd]]], [_eds_version]) VALUES (S.[id], S.[it's [odd]]], S.[_eds_version]);
TRUNCATE TABLE [#eds_rows_abe882233f89db1e];

-- read guarded
SELECT [id], [it's [odd]]], [_eds_version] FROM [dbo].[guarded]

-- stage a load of guarded
CREATE TABLE [dbo].[_eds_load_x] (
	[_eds_row] BIGINT IDENTITY(1, 1) NOT NULL,
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NOT NULL,
	[it's [odd]]] NVARCHAR(MAX) COLLATE Latin1_General_100_BIN2 NULL,
	[_eds_version] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL
)

-- replace the rows of guarded
TRUNCATE TABLE [dbo].[guarded]

-- replace the rows of guarded
INSERT INTO [dbo].[guarded] WITH (TABLOCK) ([id], [it's [odd]]], [_eds_version])
SELECT S.[id], S.[it's [odd]]], S.[_eds_version]
FROM [dbo].[_eds_load_x] AS S;

-- replace the rows of guarded
DROP TABLE [dbo].[_eds_load_x]

-- merge into guarded
MERGE INTO [dbo].[guarded] WITH (HOLDLOCK) AS T
USING [dbo].[_eds_load_x] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2
WHEN MATCHED AND (T.[_eds_version] IS NULL OR T.[_eds_version] <= S.[_eds_version] COLLATE Latin1_General_100_BIN2) THEN UPDATE SET [it's [odd]]] = S.[it's [odd]]], [_eds_version] = S.[_eds_version]
WHEN NOT MATCHED BY TARGET THEN INSERT ([id], [it's [odd]]], [_eds_version]) VALUES (S.[id], S.[it's [odd]]], S.[_eds_version]);

-- merge into guarded
DROP TABLE [dbo].[_eds_load_x]

-- replace some rows of guarded
DELETE T
FROM [dbo].[guarded] AS T WITH (TABLOCKX)
WHERE CAST(T.[id] AS NVARCHAR(MAX)) COLLATE Latin1_General_100_BIN2 IN (N'x', N'it''s \ odd') AND NOT EXISTS (SELECT 1 FROM [dbo].[_eds_load_x] AS S WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2);

-- replace some rows of guarded
MERGE INTO [dbo].[guarded] WITH (HOLDLOCK) AS T
USING [dbo].[_eds_load_x] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2
WHEN MATCHED THEN UPDATE SET [it's [odd]]] = S.[it's [odd]]], [_eds_version] = S.[_eds_version]
WHEN NOT MATCHED BY TARGET THEN INSERT ([id], [it's [odd]]], [_eds_version]) VALUES (S.[id], S.[it's [odd]]], S.[_eds_version]);

-- replace some rows of guarded
DROP TABLE [dbo].[_eds_load_x]

-- replace some rows of guarded
SELECT COUNT_BIG(*) FROM [dbo].[guarded] AS T
WHERE CAST(T.[id] AS NVARCHAR(MAX)) COLLATE Latin1_General_100_BIN2 IN (N'x', N'it''s \ odd');

-- delete from table "odd guarded" by parameters @p1 NVARCHAR(255), @p2 NVARCHAR(255), @p3 NVARCHAR(255), @p4 NVARCHAR(255)
DELETE T
FROM [dbo].[odd guarded] AS T INNER JOIN (VALUES (@p1, @p2), (@p3, @p4)) AS S ([id], [_eds_version])
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2
WHERE (T.[_eds_version] IS NULL OR T.[_eds_version] <= S.[_eds_version] COLLATE Latin1_General_100_BIN2);

-- delete from table "odd guarded" by a temporary table
CREATE TABLE [#eds_keys_f082b29e43bad67b] (
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[_eds_version] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL
)

-- delete from table "odd guarded" by a temporary table
DELETE T
FROM [dbo].[odd guarded] AS T INNER JOIN [#eds_keys_f082b29e43bad67b] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2
WHERE (T.[_eds_version] IS NULL OR T.[_eds_version] <= S.[_eds_version] COLLATE Latin1_General_100_BIN2);
TRUNCATE TABLE [#eds_keys_f082b29e43bad67b];

-- upsert into table "odd guarded" by parameters @p1 NVARCHAR(255), @p2 NVARCHAR(MAX), @p3 NVARCHAR(255), @p4 NVARCHAR(255), @p5 NVARCHAR(MAX), @p6 NVARCHAR(255)
UPDATE T SET [it's [odd]]] = S.[it's [odd]]], [_eds_version] = S.[_eds_version]
FROM [dbo].[odd guarded] AS T WITH (UPDLOCK, HOLDLOCK) INNER JOIN (VALUES (@p1, @p2, @p3), (@p4, @p5, @p6)) AS S ([id], [it's [odd]]], [_eds_version])
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2
WHERE (T.[_eds_version] IS NULL OR T.[_eds_version] <= S.[_eds_version] COLLATE Latin1_General_100_BIN2);
INSERT INTO [dbo].[odd guarded] ([id], [it's [odd]]], [_eds_version])
SELECT S.[id], S.[it's [odd]]], S.[_eds_version]
FROM (VALUES (@p1, @p2, @p3), (@p4, @p5, @p6)) AS S ([id], [it's [odd]]], [_eds_version])
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[odd guarded] AS T WITH (UPDLOCK, HOLDLOCK) WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2);

-- upsert into table "odd guarded" by a temporary table
CREATE TABLE [#eds_rows_f082b29e43bad67b] (
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[it's [odd]]] NVARCHAR(MAX) COLLATE Latin1_General_100_BIN2 NULL,
	[_eds_version] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL
)

-- upsert into table "odd guarded" by a temporary table
UPDATE T SET [it's [odd]]] = S.[it's [odd]]], [_eds_version] = S.[_eds_version]
FROM [dbo].[odd guarded] AS T WITH (UPDLOCK, HOLDLOCK) INNER JOIN [#eds_rows_f082b29e43bad67b] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2
WHERE (T.[_eds_version] IS NULL OR T.[_eds_version] <= S.[_eds_version] COLLATE Latin1_General_100_BIN2);
INSERT INTO [dbo].[odd guarded] ([id], [it's [odd]]], [_eds_version])
SELECT S.[id], S.[it's [odd]]], S.[_eds_version]
FROM [#eds_rows_f082b29e43bad67b] AS S
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[odd guarded] AS T WITH (UPDLOCK, HOLDLOCK) WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2);
TRUNCATE TABLE [#eds_rows_f082b29e43bad67b];

-- read odd guarded
SELECT [id], [it's [odd]]], [_eds_version] FROM [dbo].[odd guarded]

-- stage a load of odd guarded
CREATE TABLE [dbo].[_eds_load_x] (
	[_eds_row] BIGINT IDENTITY(1, 1) NOT NULL,
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NOT NULL,
	[it's [odd]]] NVARCHAR(MAX) COLLATE Latin1_General_100_BIN2 NULL,
	[_eds_version] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL
)

-- replace the rows of odd guarded
DELETE T
FROM [dbo].[odd guarded] AS T WITH (TABLOCKX)
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[_eds_load_x] AS S WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2);

-- replace the rows of odd guarded
UPDATE T SET [it's [odd]]] = S.[it's [odd]]], [_eds_version] = S.[_eds_version]
FROM [dbo].[odd guarded] AS T WITH (UPDLOCK, HOLDLOCK) INNER JOIN [dbo].[_eds_load_x] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2;
INSERT INTO [dbo].[odd guarded] ([id], [it's [odd]]], [_eds_version])
SELECT S.[id], S.[it's [odd]]], S.[_eds_version]
FROM [dbo].[_eds_load_x] AS S
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[odd guarded] AS T WITH (UPDLOCK, HOLDLOCK) WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2);

-- replace the rows of odd guarded
DROP TABLE [dbo].[_eds_load_x]

-- merge into odd guarded
UPDATE T SET [it's [odd]]] = S.[it's [odd]]], [_eds_version] = S.[_eds_version]
FROM [dbo].[odd guarded] AS T WITH (UPDLOCK, HOLDLOCK) INNER JOIN [dbo].[_eds_load_x] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2
WHERE (T.[_eds_version] IS NULL OR T.[_eds_version] <= S.[_eds_version] COLLATE Latin1_General_100_BIN2);
INSERT INTO [dbo].[odd guarded] ([id], [it's [odd]]], [_eds_version])
SELECT S.[id], S.[it's [odd]]], S.[_eds_version]
FROM [dbo].[_eds_load_x] AS S
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[odd guarded] AS T WITH (UPDLOCK, HOLDLOCK) WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2);

-- merge into odd guarded
DROP TABLE [dbo].[_eds_load_x]

-- replace some rows of odd guarded
DELETE T
FROM [dbo].[odd guarded] AS T WITH (TABLOCKX)
WHERE CAST(T.[id] AS NVARCHAR(MAX)) COLLATE Latin1_General_100_BIN2 IN (N'x', N'it''s \ odd') AND NOT EXISTS (SELECT 1 FROM [dbo].[_eds_load_x] AS S WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2);

-- replace some rows of odd guarded
UPDATE T SET [it's [odd]]] = S.[it's [odd]]], [_eds_version] = S.[_eds_version]
FROM [dbo].[odd guarded] AS T WITH (UPDLOCK, HOLDLOCK) INNER JOIN [dbo].[_eds_load_x] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2;
INSERT INTO [dbo].[odd guarded] ([id], [it's [odd]]], [_eds_version])
SELECT S.[id], S.[it's [odd]]], S.[_eds_version]
FROM [dbo].[_eds_load_x] AS S
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[odd guarded] AS T WITH (UPDLOCK, HOLDLOCK) WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2);

-- replace some rows of odd guarded
DROP TABLE [dbo].[_eds_load_x]

-- replace some rows of odd guarded
SELECT COUNT_BIG(*) FROM [dbo].[odd guarded] AS T
WHERE CAST(T.[id] AS NVARCHAR(MAX)) COLLATE Latin1_General_100_BIN2 IN (N'x', N'it''s \ odd');

-- delete from table "soft" by parameters @p1 NVARCHAR(255), @p2 NVARCHAR(255), @p3 NVARCHAR(255), @p4 DATETIMEOFFSET(6), @p5 BIT, @p6 NVARCHAR(255), @p7 NVARCHAR(255), @p8 NVARCHAR(255), @p9 DATETIMEOFFSET(6), @p10 BIT
UPDATE T SET [_eds_op] = S.[_eds_op], [_eds_version] = S.[_eds_version], [_eds_synced_at] = S.[_eds_synced_at], [_eds_deleted] = S.[_eds_deleted]
FROM [dbo].[soft] AS T INNER JOIN (VALUES (@p1, @p2, @p3, @p4, @p5), (@p6, @p7, @p8, @p9, @p10)) AS S ([id], [_eds_op], [_eds_version], [_eds_synced_at], [_eds_deleted])
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2
WHERE (T.[_eds_version] IS NULL OR T.[_eds_version] <= S.[_eds_version] COLLATE Latin1_General_100_BIN2);

-- delete from table "soft" by a temporary table
CREATE TABLE [#eds_keys_08055aa69427f45a] (
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[_eds_op] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[_eds_version] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[_eds_synced_at] DATETIMEOFFSET(6) NULL,
	[_eds_deleted] BIT NULL
)

-- delete from table "soft" by a temporary table
UPDATE T SET [_eds_op] = S.[_eds_op], [_eds_version] = S.[_eds_version], [_eds_synced_at] = S.[_eds_synced_at], [_eds_deleted] = S.[_eds_deleted]
FROM [dbo].[soft] AS T INNER JOIN [#eds_keys_08055aa69427f45a] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2
WHERE (T.[_eds_version] IS NULL OR T.[_eds_version] <= S.[_eds_version] COLLATE Latin1_General_100_BIN2);
TRUNCATE TABLE [#eds_keys_08055aa69427f45a];

-- upsert into table "soft" by parameters @p1 NVARCHAR(255), @p2 NVARCHAR(MAX), @p3 NVARCHAR(255), @p4 NVARCHAR(255), @p5 DATETIMEOFFSET(6), @p6 BIT, @p7 NVARCHAR(255), @p8 NVARCHAR(MAX), @p9 NVARCHAR(255), @p10 NVARCHAR(255), @p11 DATETIMEOFFSET(6), @p12 BIT
MERGE INTO [dbo].[soft] WITH (HOLDLOCK) AS T
USING (VALUES (@p1, @p2, @p3, @p4, @p5, @p6), (@p7, @p8, @p9, @p10, @p11, @p12)) AS S ([id], [it's [odd]]], [_eds_op], [_eds_version], [_eds_synced_at], [_eds_deleted])
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2
WHEN MATCHED AND (T.[_eds_version] IS NULL OR T.[_eds_version] <= S.[_eds_version] COLLATE Latin1_General_100_BIN2) THEN UPDATE SET [it's [odd]]] = S.[it's [odd]]], [_eds_op] = S.[_eds_op], [_eds_version] = S.[_eds_version], [_eds_synced_at] = S.[_eds_synced_at], [_eds_deleted] = S.[_eds_deleted]
WHEN NOT MATCHED BY TARGET THEN INSERT ([id], [it's [odd]]], [_eds_op], [_eds_version], [_eds_synced_at], [_eds_deleted]) VALUES (S.[id], S.[it's [odd]]], S.[_eds_op], S.[_eds_version], S.[_eds_synced_at], S.[_eds_deleted]);

-- upsert into table "soft" by a temporary table
CREATE TABLE [#eds_rows_08055aa69427f45a] (
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[it's [odd]]] NVARCHAR(MAX) COLLATE Latin1_General_100_BIN2 NULL,
	[_eds_op] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[_eds_version] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[_eds_synced_at] DATETIMEOFFSET(6) NULL,
	[_eds_deleted] BIT NULL
)

-- upsert into table "soft" by a temporary table
MERGE INTO [dbo].[soft] WITH (HOLDLOCK) AS T
USING [#eds_rows_08055aa69427f45a] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2
WHEN MATCHED AND (T.[_eds_version] IS NULL OR T.[_eds_version] <= S.[_eds_version] COLLATE Latin1_General_100_BIN2) THEN UPDATE SET [it's [odd]]] = S.[it's [odd]]], [_eds_op] = S.[_eds_op], [_eds_version] = S.[_eds_version], [_eds_synced_at] = S.[_eds_synced_at], [_eds_deleted] = S.[_eds_deleted]
WHEN NOT MATCHED BY TARGET THEN INSERT ([id], [it's [odd]]], [_eds_op], [_eds_version], [_eds_synced_at], [_eds_deleted]) VALUES (S.[id], S.[it's [odd]]], S.[_eds_op], S.[_eds_version], S.[_eds_synced_at], S.[_eds_deleted]);
TRUNCATE TABLE [#eds_rows_08055aa69427f45a];

-- read soft
SELECT [id], [it's [odd]]], [_eds_op], [_eds_version], [_eds_synced_at], [_eds_deleted] FROM [dbo].[soft] WHERE [_eds_deleted] IS NULL OR [_eds_deleted] = 0

-- stage a load of soft
CREATE TABLE [dbo].[_eds_load_x] (
	[_eds_row] BIGINT IDENTITY(1, 1) NOT NULL,
	[id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NOT NULL,
	[it's [odd]]] NVARCHAR(MAX) COLLATE Latin1_General_100_BIN2 NULL,
	[_eds_op] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[_eds_version] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NULL,
	[_eds_synced_at] DATETIMEOFFSET(6) NULL,
	[_eds_deleted] BIT NULL
)

-- replace the rows of soft
TRUNCATE TABLE [dbo].[soft]

-- replace the rows of soft
INSERT INTO [dbo].[soft] WITH (TABLOCK) ([id], [it's [odd]]], [_eds_op], [_eds_version], [_eds_synced_at], [_eds_deleted])
SELECT S.[id], S.[it's [odd]]], S.[_eds_op], S.[_eds_version], S.[_eds_synced_at], S.[_eds_deleted]
FROM [dbo].[_eds_load_x] AS S;

-- replace the rows of soft
DROP TABLE [dbo].[_eds_load_x]

-- merge into soft
MERGE INTO [dbo].[soft] WITH (HOLDLOCK) AS T
USING [dbo].[_eds_load_x] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2
WHEN MATCHED AND (T.[_eds_version] IS NULL OR T.[_eds_version] <= S.[_eds_version] COLLATE Latin1_General_100_BIN2) THEN UPDATE SET [it's [odd]]] = S.[it's [odd]]], [_eds_op] = S.[_eds_op], [_eds_version] = S.[_eds_version], [_eds_synced_at] = S.[_eds_synced_at], [_eds_deleted] = S.[_eds_deleted]
WHEN NOT MATCHED BY TARGET THEN INSERT ([id], [it's [odd]]], [_eds_op], [_eds_version], [_eds_synced_at], [_eds_deleted]) VALUES (S.[id], S.[it's [odd]]], S.[_eds_op], S.[_eds_version], S.[_eds_synced_at], S.[_eds_deleted]);

-- merge into soft
DROP TABLE [dbo].[_eds_load_x]

-- replace some rows of soft
DELETE T
FROM [dbo].[soft] AS T WITH (TABLOCKX)
WHERE CAST(T.[id] AS NVARCHAR(MAX)) COLLATE Latin1_General_100_BIN2 IN (N'x', N'it''s \ odd') AND NOT EXISTS (SELECT 1 FROM [dbo].[_eds_load_x] AS S WHERE T.[id] = S.[id] COLLATE Latin1_General_100_BIN2);

-- replace some rows of soft
MERGE INTO [dbo].[soft] WITH (HOLDLOCK) AS T
USING [dbo].[_eds_load_x] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2
WHEN MATCHED THEN UPDATE SET [it's [odd]]] = S.[it's [odd]]], [_eds_op] = S.[_eds_op], [_eds_version] = S.[_eds_version], [_eds_synced_at] = S.[_eds_synced_at], [_eds_deleted] = S.[_eds_deleted]
WHEN NOT MATCHED BY TARGET THEN INSERT ([id], [it's [odd]]], [_eds_op], [_eds_version], [_eds_synced_at], [_eds_deleted]) VALUES (S.[id], S.[it's [odd]]], S.[_eds_op], S.[_eds_version], S.[_eds_synced_at], S.[_eds_deleted]);

-- replace some rows of soft
DROP TABLE [dbo].[_eds_load_x]

-- replace some rows of soft
SELECT COUNT_BIG(*) FROM [dbo].[soft] AS T
WHERE CAST(T.[id] AS NVARCHAR(MAX)) COLLATE Latin1_General_100_BIN2 IN (N'x', N'it''s \ odd');

-- seal a stage
SELECT COUNT_BIG(*) FROM [dbo].[_eds_load_x];

-- seal a stage
ALTER TABLE [dbo].[_eds_load_x] ADD PRIMARY KEY CLUSTERED ([id], [n])

-- seal a stage
SELECT COALESCE(SUM(n - 1), 0)
FROM (SELECT COUNT_BIG(*) AS n FROM [dbo].[_eds_load_x] GROUP BY [id], [n] HAVING COUNT_BIG(*) > 1) AS S;

-- seal a stage
DELETE T
FROM [dbo].[_eds_load_x] AS T INNER JOIN [dbo].[_eds_load_x] AS S
ON T.[id] = S.[id] COLLATE Latin1_General_100_BIN2 AND T.[n] = S.[n]
WHERE S.[_eds_row] > T.[_eds_row];

-- seal a stage
DROP TABLE IF EXISTS [dbo].[_eds_load_x]

-- move the checkpoint
INSERT INTO [dbo].[_eds_checkpoint] ([stream], [consumer], [filter], [position], [stored])
SELECT @p1, @p2, @p3, @p4, @p5
WHERE NOT EXISTS (SELECT 1 FROM [dbo].[_eds_checkpoint] AS T WITH (UPDLOCK, HOLDLOCK) WHERE T.[stream] = @p1 AND T.[consumer] = @p2 AND T.[filter] = @p3);

-- move the checkpoint
UPDATE [dbo].[_eds_checkpoint] SET [position] = @p4, [stored] = @p5
WHERE [stream] = @p1 AND [consumer] = @p2 AND [filter] = @p3 AND [position] = @p6 AND [stored] = @p7;

-- end a transaction
BEGIN TRANSACTION

-- end a transaction
COMMIT TRANSACTION

-- end a transaction
IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION

-- end a transaction
EXECUTE sys.sp_flush_log

