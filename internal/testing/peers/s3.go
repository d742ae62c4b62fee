package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Accounts of the S3 server: one that has all permissions, and one that has none.
const (
	S3Key, S3Secret                   = "eds-test-key", "eds/test+secret"
	S3PowerlessKey, S3PowerlessSecret = "eds-powerless-key", "eds-powerless-secret"
)

// S3Server is an S3 gateway to a directory. Each subdirectory is a bucket, and each file in it is
// an object.
type S3Server struct {
	home    *home
	program string
	port    int
	process *exec.Cmd
}

// sharedS3 is the server that all tests of this process share. Like sharedPostgres, it lives until
// the process ends.
var sharedS3 = sync.OnceValues(newS3)

func newS3() (*S3Server, error) {
	program, err := s3Program()
	if err != nil {
		return nil, err
	}
	h, err := newHome("s3", nil)
	if err != nil {
		return nil, err
	}
	s := &S3Server{home: h, program: program}
	if s.port, err = freePort(); err == nil {
		err = errors.Join(s.prepare(), s.start())
	}
	if err != nil {
		return nil, errors.Join(err, h.remove())
	}
	return s, nil
}

// S3 returns the server that the tests of this process share.
func S3(t testing.TB) *S3Server {
	t.Helper()
	s, err := sharedS3()
	if err != nil {
		t.Fatalf("an S3 server for tests: %v", err)
	}
	return s
}

// StartS3 starts a server for one test, which may stop it and start it again.
func StartS3(t testing.TB) *S3Server {
	t.Helper()
	s, err := newS3()
	if err != nil {
		t.Fatalf("an S3 server for tests: %v", err)
	}
	t.Cleanup(func() {
		if err := s.home.remove(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Stop kills the server, as a crash would. Its objects stay.
func (s *S3Server) Stop(t testing.TB) {
	t.Helper()
	if err := s.process.Process.Kill(); err != nil {
		t.Fatalf("stop the S3 server: %v", err)
	}
	_ = s.process.Wait() // Wait reports only that the process was killed
}

// Start starts the server again at the same address.
func (s *S3Server) Start(t testing.TB) {
	t.Helper()
	if err := s.start(); err != nil {
		t.Fatalf("start the S3 server again: %v", err)
	}
}

// s3Program builds the server and returns the path of the program in Go's build cache. The server
// is a separate module, because it has many dependencies.
func s3Program() (string, error) {
	_, here, _, ok := runtime.Caller(0)
	if !ok {
		return "", errors.New("find the source of the test server")
	}
	cmd := exec.Command("go", "tool", "-n", "versitygw")
	cmd.Dir = filepath.Join(filepath.Dir(here), "versitygw")
	cmd.Stderr = new(bytes.Buffer)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("build the server: %w\n%s", err, cmd.Stderr)
	}
	return strings.TrimSpace(string(out)), nil
}

func (s *S3Server) prepare() error {
	for _, dir := range []string{"buckets", "attributes", "iam"} {
		if err := os.Mkdir(filepath.Join(s.home.dir, dir), 0o755); err != nil {
			return err
		}
	}
	accounts, err := json.Marshal(map[string]any{"accessAccounts": map[string]any{
		S3PowerlessKey: map[string]any{"access": S3PowerlessKey, "secret": S3PowerlessSecret, "role": "user"},
	}})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.home.dir, "iam", "users.json"), accounts, 0o600)
}

func (s *S3Server) start() error {
	process, err := s.home.start("/usr/bin/env", "ROOT_ACCESS_KEY="+S3Key, "ROOT_SECRET_KEY="+S3Secret, s.program, s.Addr(), s.home.dir)
	if err != nil {
		return err
	}
	s.process = process
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", s.Addr())
		if err == nil {
			return conn.Close()
		}
		pause := time.NewTimer(20 * time.Millisecond)
		select {
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w\n%s", err, s.home.log())
		case <-pause.C:
		}
		if log := s.home.log(); strings.Contains(log, "versitygw:") {
			return fmt.Errorf("the server has given up\n%s", log)
		}
	}
}

// Addr returns the server's host:port.
func (s *S3Server) Addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// buckets counts the buckets that this process has created, so that each gets a different name.
var buckets atomic.Int64

// Bucket creates an empty bucket and returns its name.
func (s *S3Server) Bucket(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("bucket-%d", buckets.Add(1))
	if err := os.Mkdir(s.path(name), 0o755); err != nil {
		t.Fatalf("make a bucket: %v", err)
	}
	return name
}

func (s *S3Server) path(bucket string) string { return filepath.Join(s.home.dir, "buckets", bucket) }

// Objects returns the content of objects in a bucket, keyed by their names. It returns only objects
// whose names begin with the given directory prefix, and removes the prefix from the keys.
func (s *S3Server) Objects(t testing.TB, bucket, prefix string) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	root := filepath.Join(s.path(bucket), filepath.FromSlash(prefix))
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if path == root && errors.Is(err, fs.ErrNotExist) {
			return nil // no object with the prefix has been written yet
		}
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == s3Unfinished {
				return filepath.SkipDir
			}
			return nil
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		all[filepath.ToSlash(name)], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatalf("read the objects of a bucket: %v", err)
	}
	return all
}

// s3Unfinished is the directory, within a bucket, of unfinished multipart uploads.
const s3Unfinished = ".sgwtmp"

// Unfinished returns the paths of the files that belong to multipart uploads which were neither
// completed nor aborted.
func (s *S3Server) Unfinished(t testing.TB, bucket string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(filepath.Join(s.path(bucket), s3Unfinished), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !d.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatalf("read the unfinished uploads of a bucket: %v", err)
	}
	return all
}
