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

// stageName is the session's own stage. It is temporary: Snowflake drops it, with its files, when
// the session ends for any reason.
const stageName = "EDS_STAGE"

const stageSQL = `CREATE TEMPORARY STAGE IF NOT EXISTS "` + stageName + `" ` +
	`FILE_FORMAT = (TYPE = JSON COMPRESSION = GZIP ALLOW_DUPLICATE = TRUE)`

// ndjsonBuffer collects rows as JSON lines. It compresses them once they are too large for a
// parameter.
type ndjsonBuffer struct {
	s          *session
	plain      []byte // not compressed yet
	line       []byte
	compressed *bytes.Buffer // nil: nothing is compressed yet
	gzip       *gzip.Writer
	bytes      int // before compression
	count      int
}

func newNDJSONBuffer(s *session) *ndjsonBuffer {
	return &ndjsonBuffer{s: s, plain: s.plain[:0]}
}

// keepBuffer is the size up to which a buffer is reused, in bytes.
const keepBuffer = 4 << 20

// release returns the memory to the session.
func (b *ndjsonBuffer) release() {
	if cap(b.plain) <= keepBuffer {
		b.s.plain = b.plain[:0]
	}
}

// chunkBytes is how many bytes are compressed at a time.
const chunkBytes = 128 << 10

// append appends a row and returns its encoded key, which is valid until the next call. number is
// the row's in its staging table, or 0.
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

// size returns the number of bytes before compression.
func (b *ndjsonBuffer) size() int { return b.bytes }

// file returns the compressed file.
func (b *ndjsonBuffer) file() (*bytes.Buffer, error) {
	if err := b.compress(); err != nil {
		return nil, err
	}
	return b.compressed, b.gzip.Close()
}

// upload puts the rows on the stage and returns the file's name there.
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

// stage creates the session's stage if necessary. DDL ends a transaction, so stage must precede it.
func (s *session) stage(ctx context.Context) error {
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
