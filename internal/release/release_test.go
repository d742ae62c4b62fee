package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestArchivesHaveTheNamesThatServersLookFor(t *testing.T) {
	var got []string
	for _, p := range platforms() {
		got = append(got, p.archive()+" "+p.program())
	}
	want := []string{
		"eds_Linux_x86_64.tar.gz eds", "eds_Linux_arm64.tar.gz eds", "eds_Darwin_x86_64.tar.gz eds", "eds_Darwin_arm64.tar.gz eds",
		"eds_Windows_x86_64.zip eds.exe", "eds_Windows_arm64.zip eds.exe",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// member is a file in an archive.
type member struct {
	Name, Text string
	Mode       os.FileMode
}

func readTar(t *testing.T, archive []byte) (members []member) {
	t.Helper()
	zipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(zipped)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return members
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, member{h.Name, string(text), h.FileInfo().Mode()})
	}
}

func readZip(t *testing.T, archive []byte) (members []member) {
	t.Helper()
	r, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.File {
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, member{f.Name, string(text), f.Mode()})
	}
	return members
}

func TestArchivesHoldTheFilesAndNothingOfTheMachine(t *testing.T) {
	for name, c := range map[string]struct {
		program string
		read    func(*testing.T, []byte) []member
	}{"a.tar.gz": {"eds", readTar}, "a.zip": {"eds.exe", readZip}} {
		var archives [2][]byte
		for i := range archives {
			dir := t.TempDir()
			program, licence := filepath.Join(dir, c.program), filepath.Join(dir, "LICENSE")
			for path, text := range map[string]string{program: "binary", licence: "MIT"} {
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := pack(filepath.Join(dir, name), []string{program, licence}); err != nil {
				t.Fatal(err)
			}
			var err error
			if archives[i], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(archives[0], archives[1]) {
			t.Errorf("%s: the same files make different archives", name)
		}
		want := []member{{c.program, "binary", 0o755}, {"LICENSE", "MIT", 0o644}}
		if diff := cmp.Diff(want, c.read(t, archives[0])); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestSumsAreOfEveryFile(t *testing.T) {
	dir := t.TempDir()
	want := ""
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		want += fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(name)), name)
	}
	if err := writeSums(dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, sumsName))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestAReleaseNeedsAVersion(t *testing.T) {
	keep := t.TempDir()
	if err := run(t.Context(), []string{"-out", keep}, io.Discard); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(keep); err != nil {
		t.Error(err)
	}
}
