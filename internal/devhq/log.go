package devhq

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/durable"
)

const (
	// logPath is the path prefix of uploaded logs. The rest of the path is <session>/<file>.
	logPath = "/storage/logs/"
	// maxLog is the maximum size of an uploaded log in bytes.
	maxLog = 64 << 20
	// logType is the content type that an upload must have.
	logType = "application/x-tgz"
)

// Log is a log that a server uploaded.
type Log struct {
	SessionID string
	Path      string // path of the upload URL
	File      string // path of the file on this machine
	Size      int64
	Errored   bool // the log was uploaded to the errorUrl of an ended session
	Stored    time.Time
}

// Logs returns all uploaded logs, oldest first.
func (h *HQ) Logs() ([]Log, error) {
	files, err := filepath.Glob(filepath.Join(h.logDir(), "*", "*.tgz"))
	if err != nil {
		return nil, fmt.Errorf("list logs: %w", err)
	}
	var logs []Log
	for _, file := range files {
		stat, err := os.Stat(file)
		if err != nil {
			return nil, fmt.Errorf("list logs: %w", err)
		}
		session, name := filepath.Base(filepath.Dir(file)), filepath.Base(file)
		logs = append(logs, Log{
			SessionID: session, Path: logPath + session + "/" + name, File: file,
			Size: stat.Size(), Errored: strings.HasPrefix(name, "error-"), Stored: stat.ModTime(),
		})
	}
	slices.SortStableFunc(logs, func(a, b Log) int { return a.Stored.Compare(b.Stored) })
	return logs, nil
}

func (h *HQ) logDir() string { return filepath.Join(h.options.DataDir, "logs") }

// logURL returns a signed URL to which one log of a session can be uploaded.
func (h *HQ) logURL(session, kind string) string {
	return h.keys.signedURL(h.APIURL(), http.MethodPut, logPath+session+"/"+kind+"-"+newID()+".tgz", time.Now())
}

func (h *HQ) offerLog(r *http.Request) (any, error) {
	if _, err := h.authorize(r); err != nil {
		return nil, err
	}
	session := r.PathValue("session")
	_, err := update(h.store, bucketSessions, session, func(*Session) error { return nil })
	if errors.Is(err, errNotFound) {
		return nil, httpErrorf(http.StatusNotFound, "there is no session %q", session)
	}
	if err != nil {
		return nil, err
	}
	return struct {
		URL string `json:"url"`
	}{h.logURL(session, "log")}, nil
}

// storeLog stores an uploaded log. The file names in the URL are safe to use, because HQ signed
// the URL.
func (h *HQ) storeLog(w http.ResponseWriter, r *http.Request) {
	err := h.keys.checkURL(r, time.Now())
	if err == nil && r.Header.Get("Content-Type") != logType {
		err = httpErrorf(http.StatusForbidden, "the content type is not %s", logType)
	}
	if err == nil {
		body := http.MaxBytesReader(w, r.Body, maxLog)
		err = writeLog(filepath.Join(h.logDir(), r.PathValue("session"), r.PathValue("file")), body)
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		err = httpErrorf(http.StatusRequestEntityTooLarge, "the log is larger than %d bytes", maxLog)
	}
	if err != nil {
		h.writeError(w, r, err)
		return
	}
	w.WriteHeader(http.StatusOK)
}

func writeLog(path string, body io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.Replace(path, ".part-*", func(w io.Writer) error {
		_, err := io.Copy(w, body)
		return err
	})
}
