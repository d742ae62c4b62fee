package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// LogFileOptions configure a log file. Zero values mean the defaults.
type LogFileOptions struct {
	Dir      string        // created if missing
	Name     string        // the file is <Dir>/<Name>.log; only one process may use a name
	MaxBytes int64         // size at which the file is rotated; default 32 MiB
	MaxAge   time.Duration // age at which the file is rotated; default 1 h
	MaxTotal int64         // maximum size of all finished files in Dir, in bytes; default 512 MiB
	Now      func() time.Time
}

// LogFile is a log file that is rotated by size and age. A finished file is named <Name>-<UTC time
// of its end>.log. It is compressed in the background, and then has the suffix .log.gz. If the
// finished files exceed their limit, the oldest are deleted. If files were deleted, or records were
// lost because the disk was full, LogFile writes a record about that as soon as it can. Only the
// owner of these files can read them.
//
// It is safe for concurrent use.
type LogFile struct {
	o    LogFileOptions
	path string
	self slog.Handler // writes records to this file; the caller holds mu

	mu      sync.Mutex
	file    logTarget // nil after Close, and if no new file could be opened
	size    int64
	began   time.Time
	retryAt time.Time // earliest time to retry a failed rotation
	closed  bool
	torn    bool  // the file ends in the middle of a line
	lost    int   // number of failed writes that are not reported yet
	dropped int   // number of deleted files that are not reported yet
	freed   int64 // total size of those deleted files

	finish     chan struct{} // requests a round of the compressor; closed by Close
	idle       sync.Cond     // signalled after each round of the compressor; under mu
	rounds     int           // number of requested rounds
	roundsDone int
	ended      chan struct{}
}

// logTarget is the open log file. Tests replace it.
type logTarget interface {
	Write(p []byte) (int, error)
	Stat() (fs.FileInfo, error)
	Close() error
}

// OpenLogFile opens the log file. It appends to the file of an earlier run. Write rotates that
// file first if it is too old or too large.
func OpenLogFile(o LogFileOptions) (*LogFile, error) {
	o = withDefaults(o)
	f := &LogFile{o: o, path: filepath.Join(o.Dir, o.Name+".log"), finish: make(chan struct{}, 1), ended: make(chan struct{})}
	f.idle.L = &f.mu
	f.self = slog.NewJSONHandler(unlocked{f}, nil)
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the directory of log files: %w", err)
	}
	if err := f.open(); err != nil {
		return nil, fmt.Errorf("open the log file: %w", err)
	}
	go f.compressor()
	f.mu.Lock()
	f.wake() // for files of an earlier run
	f.mu.Unlock()
	return f, nil
}

func withDefaults(o LogFileOptions) LogFileOptions {
	if o.MaxBytes <= 0 {
		o.MaxBytes = 32 << 20
	}
	if o.MaxAge <= 0 {
		o.MaxAge = time.Hour
	}
	if o.MaxTotal <= 0 {
		o.MaxTotal = 512 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

func openFile(path string) (logTarget, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil && runtime.GOOS != "windows" {
		if err = file.Chmod(0o600); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	return file, err
}

// open opens the current file for appending. The caller holds mu, or has not shared f yet.
func (f *LogFile) open() error {
	file, err := openFile(f.path)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	f.file, f.size, f.began, f.torn = file, info.Size(), f.o.Now(), false
	if f.size > 0 {
		f.began = info.ModTime() // an estimate for the file of an earlier run
	}
	return nil
}

// Write appends p to the file. The parameter p must consist of one or more complete lines.
func (f *LogFile) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, fs.ErrClosed
	}
	if f.due(len(p)) {
		if _, err := f.rotate(); err != nil {
			// If the rotation fails, continue with the large file.
			f.retryAt = f.o.Now().Add(time.Minute)
		}
	}
	f.reportLosses()
	n, err := f.append(p)
	if err != nil {
		f.lost++
	}
	return n, err
}

// due reports whether the file must be rotated before n more bytes are written.
func (f *LogFile) due(n int) bool {
	now := f.o.Now()
	return f.size > 0 && now.After(f.retryAt) && (f.size+int64(n) > f.o.MaxBytes || now.Sub(f.began) >= f.o.MaxAge)
}

// append writes lines to the current file. If the file could not be opened earlier, append
// tries to open it again. The caller holds mu.
func (f *LogFile) append(p []byte) (int, error) {
	if f.file == nil {
		if err := f.open(); err != nil {
			return 0, err
		}
	}
	if f.torn {
		if _, err := f.file.Write([]byte("\n")); err != nil {
			return 0, err
		}
		f.torn = false
	}
	n, err := f.file.Write(p)
	f.size += int64(n)
	f.torn = err != nil && n > 0
	return n, err
}

// unlocked is a writer to the file for code that already holds mu.
type unlocked struct{ f *LogFile }

func (u unlocked) Write(p []byte) (int, error) { return u.f.append(p) }

// reportLosses writes records about lost records and deleted files. If writing fails, the next
// call tries again. The caller holds mu.
func (f *LogFile) reportLosses() {
	warn := func(message string, args ...any) bool {
		record := slog.NewRecord(f.o.Now(), slog.LevelWarn, message, 0)
		record.Add(args...)
		return f.self.Handle(context.Background(), record) == nil
	}
	if f.lost > 0 && warn("records could not be written to the log file and are lost", "records", f.lost) {
		f.lost = 0
	}
	if f.dropped > 0 && warn("deleted the oldest log files to stay within their bound", "files", f.dropped, "bytes", f.freed, "bound",
		f.o.MaxTotal) {
		f.dropped, f.freed = 0, 0
	}
}

// nameTime is the layout of the time in the name of a finished file. With this layout, names
// sort chronologically.
const nameTime = "20060102T150405.000000000Z"

// rotate closes the current file, renames it, and opens a new one. It returns the path of the
// finished file before compression. The caller holds mu.
func (f *LogFile) rotate() (string, error) {
	if f.file != nil {
		file := f.file
		f.file = nil
		if err := file.Close(); err != nil {
			return "", fmt.Errorf("finish the log file: %w", err)
		}
	}
	finished := f.finishedName()
	if err := os.Rename(f.path, finished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("rotate the log file: %w", err)
	}
	if err := f.open(); err != nil {
		return "", fmt.Errorf("open the log file: %w", err)
	}
	f.wake()
	return finished, nil
}

// finishedName returns an unused path for a finished file. Without the check for existing
// files, a coarse clock or a clock that was set back could lead to a path that is already in
// use.
func (f *LogFile) finishedName() string {
	for t := f.o.Now().UTC(); ; t = t.Add(1) {
		name := filepath.Join(f.o.Dir, f.o.Name+"-"+t.Format(nameTime)+".log")
		_, plain := os.Lstat(name)
		_, compressed := os.Lstat(name + ".gz")
		if errors.Is(plain, fs.ErrNotExist) && errors.Is(compressed, fs.ErrNotExist) {
			return name
		}
		if plain != nil && !errors.Is(plain, fs.ErrNotExist) {
			return name // the rename returns the error
		}
	}
}

// Rotate finishes the current file, waits until that file is compressed, and returns the path of
// the compressed file.
func (f *LogFile) Rotate(ctx context.Context) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return "", fs.ErrClosed
	}
	finished, err := f.rotate()
	if err != nil {
		return "", err
	}
	if err := f.awaitRound(ctx); err != nil {
		return "", err
	}
	if _, err := os.Stat(finished + ".gz"); err != nil {
		return "", fmt.Errorf("compress the log file: %w", err)
	}
	return finished + ".gz", nil
}

// wake requests a round of the compressor. The caller holds mu.
func (f *LogFile) wake() {
	if f.closed {
		return
	}
	f.rounds++
	select {
	case f.finish <- struct{}{}:
	default: // a round is already requested
	}
}

// awaitRound waits until the compressor has completed all rounds that have been requested so
// far, or until ctx is done. The caller holds mu.
func (f *LogFile) awaitRound(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.idle.Broadcast()
	})
	defer stop()
	for want := f.rounds; f.roundsDone < want; {
		if err := ctx.Err(); err != nil {
			return err
		}
		f.idle.Wait()
	}
	return nil
}

// compressor compresses and prunes finished files after each rotation. It runs until Close.
func (f *LogFile) compressor() {
	defer close(f.ended)
	for range f.finish {
		f.mu.Lock()
		asked := f.rounds
		f.mu.Unlock()

		// If a file cannot be compressed, the next round tries again.
		_ = compressFinished(f.o.Dir, f.o.Name)
		files, bytes := prune(f.o.Dir, f.o.MaxTotal)

		f.mu.Lock()
		f.dropped, f.freed = f.dropped+files, f.freed+bytes
		f.roundsDone = asked
		f.idle.Broadcast()
		f.mu.Unlock()
	}
}

// Finished returns the paths of the compressed files with this log's name, oldest first.
func (f *LogFile) Finished() ([]string, error) {
	finished, err := finishedFiles(f.o.Dir)
	if err != nil {
		return nil, fmt.Errorf("list the log files: %w", err)
	}
	var paths []string
	for _, file := range finished {
		if file.name == f.o.Name && strings.HasSuffix(file.path, ".gz") {
			paths = append(paths, file.path)
		}
	}
	return paths, nil
}

// Close waits for the compressor and closes the file. The next run appends to the file.
func (f *LogFile) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	close(f.finish)
	f.mu.Unlock()
	<-f.ended

	f.mu.Lock()
	defer f.mu.Unlock()
	f.reportLosses()
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}
