package snowflake

import (
	"bytes"
	"compress/gzip"
	"io"
	"regexp"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

var stageReference = regexp.MustCompile(`@"[^"]+"/[\w./-]+`)

// Rows returns the rows that a statement reads. If the statement names a staged file, the rows are
// the lines of that file. Otherwise, they are the elements of the statement's first argument. As in
// Snowflake, a missing file has no rows.
func (q Query) Rows() [][]byte {
	var lines [][]byte
	if name := stageReference.FindString(q.SQL); name != "" {
		raw, ok := q.File(name)
		if !ok {
			return nil
		}
		z, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil
		}
		text, err := io.ReadAll(z)
		if err != nil {
			return nil
		}
		return bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
	}
	if len(q.Args) == 0 {
		return nil
	}
	if err := rawjson.Elements([]byte(q.Args[0]), func(e rawjson.Span) error {
		lines = append(lines, []byte(q.Args[0][e.Start:e.End]))
		return nil
	}); err != nil {
		return nil
	}
	return lines
}
