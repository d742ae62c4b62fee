package snowflake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	sf "github.com/snowflakedb/gosnowflake"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// stageName is the name of the session's stage. The stage is temporary, so Snowflake drops the
// stage and its files when the session ends for any reason.
const stageName = "EDS_STAGE"

const stageSQL = `CREATE TEMPORARY STAGE IF NOT EXISTS "` + stageName + `" ` +
	`FILE_FORMAT = (TYPE = JSON COMPRESSION = GZIP ALLOW_DUPLICATE = TRUE)`

// ndjsonBuffer collects rows as JSON lines. It starts to compress the lines when they are too large
// for a statement's parameter.
type ndjsonBuffer struct {
	s          *sqlSession
	plain      []byte        // the lines that are not compressed yet
	line       []byte        // reused to encode one line
	compressed *bytes.Buffer // nil before the first compression
	gzip       *gzip.Writer
	bytes      int // total size of all lines before compression
	count      int // the number of rows
}

func newNDJSONBuffer(s *sqlSession) *ndjsonBuffer {
	return &ndjsonBuffer{s: s, plain: s.plain[:0]}
}

// keepBuffer is the maximum capacity, in bytes, of a buffer that is kept for reuse.
const keepBuffer = 4 << 20

// release gives the buffer's memory back to the session for reuse. The buffer cannot be used
// afterwards.
func (b *ndjsonBuffer) release() {
	if cap(b.plain) <= keepBuffer {
		b.s.plain = b.plain[:0]
	}
}

// chunkBytes is the minimum number of bytes that append compresses at a time.
const chunkBytes = 128 << 10

// append appends a row as a line, and returns the row's encoded key, which is valid until the next
// call. The parameter op is the operation. The parameter number is the row's number in its staging
// table, or 0 if the row is not staged.
func (b *ndjsonBuffer) append(ts *tableStatements, op string, row *change.Row, synced time.Time, number int64) (key []byte, err error) {
	line, at, err := ts.appendRow(b.line[:0], op, row, synced, number, b.s.scratch[:0])
	if err != nil {
		return nil, err
	}
	b.line = line
	b.plain = append(b.plain, line...)
	b.count++
	b.bytes += len(line)
	if b.bytes > parameterBytes && len(b.plain) >= chunkBytes {
		err = b.compress()
	}
	return line[at[0]:at[1]], err
}

func (b *ndjsonBuffer) compress() error {
	if b.compressed == nil {
		b.compressed = &bytes.Buffer{}
		var err error
		if b.gzip, err = gzip.NewWriterLevel(b.compressed, gzip.BestSpeed); err != nil {
			return err
		}
	}
	_, err := b.gzip.Write(b.plain)
	b.plain = b.plain[:0]
	return err
}

// size returns the total size of all lines before compression, in bytes.
func (b *ndjsonBuffer) size() int { return b.bytes }

// file compresses the remaining lines and returns the compressed file.
func (b *ndjsonBuffer) file() (*bytes.Buffer, error) {
	if err := b.compress(); err != nil {
		return nil, err
	}
	return b.compressed, b.gzip.Close()
}

// upload uploads the rows to the stage as a file, and returns the file's name on the stage.
func (tx *transaction) upload(ctx context.Context, ts *tableStatements, rows *ndjsonBuffer) (string, error) {
	content, err := rows.file()
	if err != nil {
		return "", fmt.Errorf("compress rows for %s: %w", ts.label, err)
	}
	if err := tx.stage(ctx); err != nil {
		return "", err
	}
	tx.staged++
	name := fmt.Sprintf("%d.json.gz", tx.staged)
	tx.files = append(tx.files, name)
	put := fmt.Sprintf("PUT 'file:///eds/%s' '@%s' AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = GZIP OVERWRITE = TRUE",
		name, quote(stageName))
	a, err := tx.query(sf.WithFileStream(ctx, content), "upload rows for "+ts.label, put)
	if err != nil {
		return "", err
	}
	for i, c := range a.columns {
		for r := range a.rows {
			if strings.EqualFold(c, "status") && !strings.EqualFold(a.text(r, i), "UPLOADED") {
				return "", &sqlsink.ConnectionError{Err: fmt.Errorf("upload rows for %s: the storage did not accept the file", ts.label)}
			}
		}
	}
	return name, nil
}

// stage creates the session's stage if the stage does not exist. The caller must not have started a
// transaction, because DDL commits a transaction implicitly.
func (s *sqlSession) stage(ctx context.Context) error {
	if s.hasStage {
		return nil
	}
	_, err := s.query(ctx, "create a stage", stageSQL)
	if e := new(serverError); errors.As(err, &e) && e.denied() {
		return s.missingPrivilege("create a stage", "CREATE STAGE", err)
	}
	s.hasStage = err == nil
	return err
}
