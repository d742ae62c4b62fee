package devhq

import (
	"bufio"
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/durable"
	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// jobLife is how long a job and its files are kept.
const jobLife = 72 * time.Hour

// fileLimits limits the size of one export file.
type fileLimits struct {
	rows  int
	bytes int // bytes before compression
}

// exportFile describes one file of an export.
type exportFile struct {
	Name string `json:"name"`
	Rows int    `json:"rows"`
	Size int64  `json:"size"`
	MD5  string `json:"md5"` // MD5 of the file's bytes in hexadecimal, which is also its ETag
}

// tableWriter writes the rows of one table to gzipped NDJSON files.
type tableWriter struct {
	dir, job, table string
	schemaID        int
	clock           cdc.Timestamp
	limits          fileLimits
	since           int64 // rows with an earlier updatedDate, in Unix milliseconds, are omitted
}

// fileName returns the name of an export file in the format of CockroachDB's changefeeds. The name
// contains the time of the snapshot, the job, the node, the sink, the number of the file, the
// table, and the version of the table's schema.
func (w *tableWriter) fileName(number int) string {
	t := w.clock.Time()
	session := fnv.New64a()
	_, _ = session.Write([]byte(w.job))
	return fmt.Sprintf("%s%09d%010d-%016x-1-%d-%08x-%s-%x.ndjson.gz",
		t.Format("20060102150405"), t.Nanosecond(), w.clock.Logical, session.Sum64(), 1, number, w.table, w.schemaID)
}

// write writes the rows to files, and returns the files. If there are no rows, it writes no files.
func (w *tableWriter) write(ctx context.Context, rows iter.Seq[json.RawMessage]) (files []exportFile, err error) {
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return nil, err
	}
	var out *rowFile
	defer func() {
		if out != nil {
			err = errors.Join(err, out.discard())
		}
	}()
	finish := func() error {
		f, err := out.finish()
		files, out = append(files, f), nil
		return err
	}
	for row := range rows {
		if !w.selects(row) {
			continue
		}
		if out == nil {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if out, err = createRowFile(w.dir, w.fileName(len(files))); err != nil {
				return nil, err
			}
		}
		if err := out.add(row); err != nil {
			return nil, err
		}
		if out.rows >= w.limits.rows || out.text >= w.limits.bytes {
			if err := finish(); err != nil {
				return nil, err
			}
		}
	}
	if out != nil {
		err = finish()
	}
	return files, err
}

// selects reports whether the row changed at or after w.since. A row without an updatedDate counts
// as changed.
func (w *tableWriter) selects(row []byte) bool {
	if w.since == 0 {
		return true
	}
	m, err := rawjson.OpenObject(row)
	if err != nil {
		return true
	}
	for m.Next() {
		if string(m.Name()) == "updatedDate" {
			at, err := time.Parse(time.RFC3339Nano, string(rawjson.Text(m.Value())))
			return err != nil || at.UnixMilli() >= w.since
		}
	}
	return true
}

// rowFile is an export file that is being written under a temporary name. The method finish
// renames it.
type rowFile struct {
	name   string
	file   *os.File
	buffer *bufio.Writer
	sum    hash.Hash
	zip    *gzip.Writer
	rows   int
	text   int // number of bytes written, before compression
}

func createRowFile(dir, name string) (*rowFile, error) {
	file, err := os.Create(filepath.Join(dir, name+".part"))
	if err != nil {
		return nil, err
	}
	f := &rowFile{name: name, file: file, sum: md5.New()}
	f.buffer = bufio.NewWriterSize(io.MultiWriter(file, f.sum), 64<<10)
	f.zip, err = gzip.NewWriterLevel(f.buffer, gzip.BestSpeed)
	return f, err
}

func (f *rowFile) add(row []byte) error {
	if _, err := f.zip.Write(row); err != nil {
		return err
	}
	if _, err := f.zip.Write([]byte{'\n'}); err != nil {
		return err
	}
	f.rows++
	f.text += len(row) + 1
	return nil
}

func (f *rowFile) finish() (exportFile, error) {
	part := f.file.Name()
	err := errors.Join(f.zip.Close(), f.buffer.Flush(), f.file.Sync())
	size, seekErr := f.file.Seek(0, io.SeekCurrent)
	if err = errors.Join(err, seekErr, f.file.Close()); err != nil {
		return exportFile{}, errors.Join(err, os.Remove(part))
	}
	err = errors.Join(os.Rename(part, filepath.Join(filepath.Dir(part), f.name)), durable.SyncDir(filepath.Dir(part)))
	return exportFile{Name: f.name, Rows: f.rows, Size: size, MD5: hex.EncodeToString(f.sum.Sum(nil))}, err
}

func (f *rowFile) discard() error {
	return errors.Join(f.file.Close(), os.Remove(f.file.Name()))
}

// serve serves a file of a job over HTTP.
func (e *exportRunner) serve(w http.ResponseWriter, r *http.Request, job, name string) error {
	known, ok := e.file(job, name)
	if !ok {
		return httpErrorf(http.StatusNotFound, "there is no such file")
	}
	f, err := os.Open(filepath.Join(e.dir, job, known.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return httpErrorf(http.StatusNotFound, "the file is gone")
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read-only
	stat, err := f.Stat()
	if err != nil {
		return err
	}
	w.Header().Set("ETag", `"`+known.MD5+`"`)
	w.Header().Set("Content-Type", "application/gzip")
	http.ServeContent(w, r, "", stat.ModTime(), f)
	return nil
}

func (e *exportRunner) file(job, name string) (exportFile, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if j, ok := e.jobs[job]; ok {
		for _, t := range j.Tables {
			for _, f := range t.Files {
				if f.Name == name {
					return f, true
				}
			}
		}
	}
	return exportFile{}, false
}

// remove deletes a job and all its files.
func (e *exportRunner) remove(j *exportJob) error {
	if err := os.RemoveAll(filepath.Join(e.dir, j.ID)); err != nil {
		return fmt.Errorf("remove the files of export %s: %w", j.ID, err)
	}
	return e.store.remove(bucketJobs, j.ID)
}
