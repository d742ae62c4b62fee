package snapshot

import (
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/state"
)

// maxUnknown is the maximum number of unknown columns that are logged per table.
const maxUnknown = 20

// loadFiles downloads and loads the table's files that are not loaded yet.
func (t *tableImport) loadFiles(ctx context.Context, load sink.Load) error {
	ctx, cancel := context.WithCancel(ctx)
	var downloading sync.WaitGroup
	defer downloading.Wait()
	defer cancel()
	var pending []exportFile
	for _, f := range t.export.files {
		if !load.Loaded(f.name) {
			pending = append(pending, f)
			continue
		}
		t.count(f.name)
		t.progress.setLoaded(f.name)
	}
	arrivals := t.downloadAhead(ctx, &downloading, pending)
	for _, f := range pending {
		t.watch.downloading(f.name)
		arrival, ok := receive(ctx, arrivals)
		if !ok {
			return context.Cause(ctx)
		}
		err, ok := receive(ctx, arrival)
		if !ok {
			return context.Cause(ctx)
		}
		if err != nil {
			return &FileError{File: f.name, Err: err}
		}
		t.watch.doing("load file " + f.name)
		if err := t.loadFile(ctx, load, f); err != nil {
			return err
		}
	}
	return nil
}

// count adds the rows and bytes of a file to the progress. The file was loaded by an earlier run.
func (t *tableImport) count(file string) {
	if known, ok := t.known[file]; ok && !t.counted[file] {
		t.counted[file] = true
		t.progress.setSize(file, known.Bytes)
		t.progress.setDownloaded(file, known.Bytes)
		t.progress.addRows(known.Rows, known.Bytes)
	}
}

// downloadAhead downloads the files in the background, up to a few files ahead of loading. It
// returns a channel that receives one result channel per file, in the order of files.
func (t *tableImport) downloadAhead(ctx context.Context, group *sync.WaitGroup, files []exportFile) <-chan chan error {
	arrivals := make(chan chan error, downloads)
	group.Go(func() {
		for _, f := range files {
			arrival := make(chan error, 1)
			select {
			case arrivals <- arrival:
			case <-ctx.Done():
				return
			}
			group.Go(func() { arrival <- t.downloadFile(ctx, f.name) })
		}
	})
	return arrivals
}

// downloadFile downloads the file into t.dir, unless the file is already there.
func (t *tableImport) downloadFile(ctx context.Context, file string) error {
	path := filepath.Join(t.dir, file)
	if stat, err := os.Stat(path); err == nil {
		t.progress.setSize(file, stat.Size())
		t.progress.setDownloaded(file, stat.Size())
		return nil
	}
	transfer := &transfer{
		path: path,
		size: func(n int64) { t.progress.setSize(file, n) },
		got:  func(n int64) { t.progress.setDownloaded(file, n) },
	}
	return t.downloader.download(ctx, transfer, func(ctx context.Context, stale string) (string, error) {
		return t.source.locate(ctx, t.table.Name, file, stale)
	})
}

// share returns the number of shares of importRun.loading that a file of the table needs: one
// share, or all of them if the table is loaded alone. Therefore, memory holds either short lines of
// several files or long lines of one file. A load that finds a long line is closed, and is
// restarted as the only load. While the restarted load waits for other loads, it holds no resource
// of the destination that these other loads may need.
func (t *tableImport) share() int64 {
	if t.alone {
		return int64(t.cfg.Parallel)
	}
	return 1
}

// loadFile loads one downloaded file, records it, and then removes it unless files are kept.
func (t *tableImport) loadFile(ctx context.Context, load sink.Load, f exportFile) error {
	now, err := t.loadRows(ctx, load, f)
	if err != nil {
		return err
	}
	t.known[f.name], t.counted[f.name] = now, true
	t.files++
	if err := t.cfg.State.RecordFile(t.table.Name, f.name, now); err != nil {
		return err
	}
	t.progress.setLoaded(f.name)
	return t.remove(f)
}

// decode passes the rows of d to the given load, reports the progress, and returns the numbers of
// loaded rows and bytes.
func (t *tableImport) decode(
	ctx context.Context, load func(context.Context, string, iter.Seq2[*change.Row, error]) (int64, error), d *fileDecoder,
) (now state.ImportFile, err error) {
	file, err := os.Open(filepath.Join(t.dir, d.name))
	if err != nil {
		d.err = &FileError{File: d.name, Err: err}
		return now, d.err
	}
	defer file.Close()
	reading := &countingReader{r: file}
	var reported state.ImportFile
	report := func(rows int64) {
		bytes := reading.n.Load()
		t.progress.addRows(rows-reported.Rows, bytes-reported.Bytes)
		reported = state.ImportFile{Rows: rows, Bytes: bytes}
	}
	d.passed = func(n int) { report(reported.Rows + int64(n)) }
	rows, err := load(ctx, d.name, d.Rows(ctx, reading))
	switch {
	case err == nil && d.err != nil:
		err = d.err // the sink should have returned this error
	case err == nil && !d.ended:
		err = fault.Mark(fault.Fatal, errors.New("the destination left out rows"))
	}
	if err != nil {
		t.progress.addRows(-reported.Rows, -reported.Bytes)
		return now, err
	}
	report(rows)
	return reported, nil
}

// loadError adds the position in the file to err, which is the error that ended the load of the
// file. If the file is damaged and can be downloaded again, loadError removes the file.
func (t *tableImport) loadError(ctx context.Context, d *fileDecoder, f exportFile, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if d.err != nil { // the error of the sink is only a consequence
		if e := new(FileError); errors.As(d.err, &e) && e.damaged() && f.url != "" {
			return errors.Join(d.err, removeFile(filepath.Join(t.dir, f.name)), t.dropRefused(f))
		}
		return d.err
	}
	where := &FileError{File: f.name, Err: err}
	var row *sink.RowError
	switch {
	case errors.As(err, &row):
		where.Line, where.Err = d.lineOf(row.Row), row.Err
		// The destination will refuse the row again, even if the error is transient.
		return sinkError{fault.Mark(max(fault.Of(err), fault.Poison), where)}
	case fault.Of(err) == fault.Poison && d.row > 0:
		where.Line, where.Before = d.line, true
	}
	return sinkError{where}
}

// remove removes a loaded file, unless files are kept.
func (t *tableImport) remove(f exportFile) error {
	if t.keepsFiles() {
		return nil
	}
	return removeFile(filepath.Join(t.dir, f.name))
}

// warnUnknown logs that the export has a column that the schema lacks. It logs each column once, up
// to maxUnknown columns.
func (t *tableImport) warnUnknown(name []byte) {
	if len(t.unknown) >= maxUnknown || t.unknown[string(name)] {
		return
	}
	t.unknown[string(name)] = true
	t.cfg.Logger.Warn("skipping a column of the export that the schema lacks",
		"table", t.table.Name, "column", string(name[:min(len(name), 100)]))
}

// countingReader counts the bytes read from r.
type countingReader struct {
	r io.Reader
	n atomic.Int64
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}
