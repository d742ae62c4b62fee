package telemetry

import (
	"bytes"
	"errors"
	"io/fs"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// disk is a file on a disk with limited room.
type disk struct {
	bytes.Buffer
	room int
}

func (d *disk) Write(p []byte) (int, error) {
	n, err := d.Buffer.Write(p[:min(len(p), d.room)])
	d.room -= n
	if err == nil && n < len(p) {
		err = syscall.ENOSPC
	}
	return n, err
}

func (d *disk) Stat() (fs.FileInfo, error) { return fstest.MapFS{"f": {}}.Stat("f") }

func (d *disk) Close() error { return nil }

func TestLogFile_TearsOnlyTheLineThatFillsTheDisk(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f, err := OpenLogFile(LogFileOptions{Dir: t.TempDir(), Name: "server", Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := f.file.Close(); err != nil {
		t.Fatal(err)
	}
	d := &disk{room: 8}
	f.file = d
	for _, line := range []string{"one\n", "two and more\n", "three\n", "four\n"} {
		_, err := f.Write([]byte(line))
		if full := line != "one\n"; full != errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%q: %v", line, err)
		}
	}
	d.room = 1000
	for _, line := range []string{"five\n", "six\n"} {
		if _, err := f.Write([]byte(line)); err != nil {
			t.Error(err)
		}
	}
	want := "one\ntwo \n" + `{"time":"2026-01-02T03:04:05Z","level":"WARN",` +
		`"msg":"records could not be written to the log file and are lost","records":3}` + "\nfive\nsix\n"
	if diff := cmp.Diff(want, d.String()); diff != "" {
		t.Error(diff)
	}
}
