package devhq

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// logPath is where logs are uploaded: the rest of the path is <session>/<file>.
	logPath = "/storage/logs/"
	// maxLog bounds an uploaded log, in bytes.
	maxLog = 64 << 20
	// logType is the content type that an upload must have.
	logType = "application/x-tgz"
)

// Log is a log that a server has uploaded.
type Log struct {
	SessionID string
	Path      string // of its upload URL, which is its storage path
	File      string // on this machine
	Size      int64
	Errored   bool // uploaded to the errorUrl of a session's end
	Stored    time.Time
}

// Logs returns every uploaded log, oldest first.
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

// logURL returns a URL to upload one log of a session to.
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
		return nil, refuse(http.StatusNotFound, "there is no session %q", session)
	}
	if err != nil {
		return nil, err
	}
	return struct {
		URL string `json:"url"`
	}{h.logURL(session, "log")}, nil
}

// storeLog takes an upload. The signature of its URL, which HQ made, vouches
// for the names in its path.
func (h *HQ) storeLog(w http.ResponseWriter, r *http.Request) {
	err := h.keys.checkURL(r, time.Now())
	if err == nil && r.Header.Get("Content-Type") != logType {
		err = refuse(http.StatusForbidden, "the content type is not %s", logType)
	}
	if err == nil {
		body := http.MaxBytesReader(w, r.Body, maxLog)
		err = writeFile(filepath.Join(h.logDir(), r.PathValue("session"), r.PathValue("file")), body)
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		err = refuse(http.StatusRequestEntityTooLarge, "the log is larger than %d bytes", maxLog)
	}
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	w.WriteHeader(http.StatusOK)
}
