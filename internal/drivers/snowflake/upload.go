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
)

// stageName is the name of the session's own stage. It is temporary: Snowflake
// drops it, with what it holds, when the session ends, however it ends.
const stageName = "EDS_STAGE"

const stageSQL = `CREATE TEMPORARY STAGE IF NOT EXISTS "` + stageName + `" FILE_FORMAT = (TYPE = JSON COMPRESSION = GZIP ALLOW_DUPLICATE = TRUE)`

// lines collects rows as JSON lines, compressed as soon as they are too many to
// be a parameter.
type lines struct {
	s          *session
	plain      []byte // not compressed yet
	line       []byte
	compressed *bytes.Buffer // nil: nothing is compressed
	gzip       *gzip.Writer
	bytes      int // before compression
	count      int
}

func newLines(s *session) *lines {
	return &lines{s: s, plain: s.plain[:0]}
}

// keepBuffer is the size up to which a buffer is kept for the next use, in bytes.
const keepBuffer = 4 << 20

// release gives the memory back to the session.
func (b *lines) release() {
	if cap(b.plain) <= keepBuffer {
		b.s.plain = b.plain[:0]
	}
}

// chunk is how much is compressed at a time.
const chunk = 128 << 10

// append appends a row and returns its key as it is written, which is valid
// until the next call. Number is the row's in its staging table, or 0.
func (b *lines) append(sh *shape, op string, row *change.Row, synced time.Time, number int64) (key []byte, err error) {
	line, at, err := sh.appendRow(b.line[:0], op, row, synced, number, b.s.scratch[:0])
	if err != nil {
		return nil, err
	}
	b.line = line
	b.plain = append(b.plain, line...)
	b.count++
	b.bytes += len(line)
	if b.bytes > parameterBytes && len(b.plain) >= chunk {
		err = b.compress()
	}
	return line[at[0]:at[1]], err
}

func (b *lines) compress() error {
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

// size returns how much there is, before compression.
func (b *lines) size() int { return b.bytes }

// file returns the compressed file.
func (b *lines) file() (*bytes.Buffer, error) {
	if err := b.compress(); err != nil {
		return nil, err
	}
	return b.compressed, b.gzip.Close()
}

// upload puts the rows on the stage and returns the file's name there.
func (tx *transaction) upload(ctx context.Context, sh *shape, rows *lines) (string, error) {
	content, err := rows.file()
	if err != nil {
		return "", fmt.Errorf("compress rows for %s: %w", sh.label, err)
	}
	if err := tx.stage(ctx); err != nil {
		return "", err
	}
	tx.staged++
	name := fmt.Sprintf("%d.json.gz", tx.staged)
	tx.files = append(tx.files, name)
	put := fmt.Sprintf("PUT 'file:///eds/%s' '@%s' AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = GZIP OVERWRITE = TRUE", name, quote(stageName))
	a, err := tx.query(sf.WithFileStream(ctx, content), "upload rows for "+sh.label, put)
	if err != nil {
		return "", err
	}
	for i, c := range a.columns {
		for r := range a.rows {
			if strings.EqualFold(c, "status") && !strings.EqualFold(a.text(r, i), "UPLOADED") {
				return "", &connectionError{fmt.Errorf("upload rows for %s: the storage did not take the file", sh.label)}
			}
		}
	}
	return name, nil
}

// stage makes the session's stage. It is DDL, which ends a transaction, so it
// comes before any.
func (s *session) stage(ctx context.Context) error {
	if s.hasStage {
		return nil
	}
	_, err := s.query(ctx, "make a stage", stageSQL)
	if e := new(serverError); errors.As(err, &e) && e.denied() {
		return s.denied("make a stage", "CREATE STAGE", err)
	}
	s.hasStage = err == nil
	return err
}
