package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// sendEvery is how often HQ is sent the log.
const sendEvery = time.Hour

// errNoLog answers who asks for a log that is not kept in a file.
var errNoLog = errors.New("this server keeps no log file")

// sendLogsHourly sends HQ the log every hour, and at first what earlier runs left.
func (sh *hqSession) sendLogsHourly(ctx context.Context) {
	if sh.s.Log == nil {
		return
	}
	if err := sh.s.sendFinished(ctx, sh.sess.ID); err != nil && ctx.Err() == nil {
		sh.s.Logger.Warn("logs could not be sent to hq; they are kept, and sent later", "error", err)
	}
	ticker := time.NewTicker(sendEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if _, err := sh.s.sendLogs(ctx, sh.sess.ID); err != nil && ctx.Err() == nil {
			sh.s.Logger.Warn("logs could not be sent to hq; they are kept, and sent later", "error", err)
		}
	}
}

// sendLogs rotates the log and sends HQ all that it has not been sent. It
// returns the storage path of the newest.
func (s *Server) sendLogs(ctx context.Context, session string) (string, error) {
	if s.Log == nil {
		return "", errNoLog
	}
	if _, err := s.Log.Rotate(ctx); err != nil {
		return "", err
	}
	if err := s.takeUploads(ctx); err != nil {
		return "", err
	}
	defer s.returnUploads()
	return s.sendAll(ctx, session)
}

// sendFinished sends HQ the finished log files that it has not been sent.
func (s *Server) sendFinished(ctx context.Context, session string) error {
	if err := s.takeUploads(ctx); err != nil {
		return err
	}
	defer s.returnUploads()
	_, err := s.sendAll(ctx, session)
	return err
}

// takeUploads waits until nobody else sends logs.
func (s *Server) takeUploads(ctx context.Context) error {
	select {
	case <-s.uploads:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Server) returnUploads() { s.uploads <- struct{}{} }

func (s *Server) sendAll(ctx context.Context, session string) (path string, err error) {
	files, err := s.Log.Finished()
	if err != nil {
		return "", err
	}
	for _, file := range files {
		url, err := s.client.LogURL(ctx, session)
		if err != nil {
			return path, err
		}
		if path, err = s.sendFile(ctx, url, file); err != nil {
			return path, err
		}
	}
	return path, nil
}

// sendFile uploads a finished log file, and removes it, or sets it aside where
// files are to be kept.
func (s *Server) sendFile(ctx context.Context, url, file string) (path string, err error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil // it was deleted to make room
	}
	if err != nil {
		return "", fmt.Errorf("send a log: %w", err)
	}
	path, err = s.client.Upload(ctx, url, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	if s.Options.KeepLogs {
		err = os.Rename(file, telemetry.SentName(file))
	} else {
		err = os.Remove(file)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return path, fmt.Errorf("put a log away that was sent: %w", err)
	}
	return path, nil
}

// sendOlderLogs sends the finished files at the end of a session.
func (s *Server) sendOlderLogs(ctx context.Context, session string) {
	if s.Log == nil {
		return
	}
	if err := s.sendFinished(ctx, session); err != nil {
		s.Logger.Warn("logs could not be sent to hq; they are kept, and sent later", "error", err)
	}
}

// sendLastLog sends what the log holds at the end of a session to the URL that
// HQ has given for it.
func (s *Server) sendLastLog(ctx context.Context, url string) {
	if s.Log == nil || url == "" {
		return
	}
	file, err := s.Log.Rotate(ctx)
	if err == nil {
		_, err = s.sendFile(ctx, url, file)
	}
	if err != nil {
		s.Logger.Warn("the log of the session could not be sent to hq; it is kept, and sent later", "error", err)
	}
}

// Crash is the unexpected end of an earlier worker.
type Crash struct {
	Session string // that it held; "" where none
	Kind    string // of its end, in a word
	Stderr  string // the end of what it wrote there
	Forget  func() error
}

// reportCrashes tells HQ of crashes that it does not know of. While a session
// that a crash left open is not ended, HQ takes its server for one that runs, and
// begins no other. Where no session was left open the report is a log of the given
// one, and waits as long as there is none. Reports that fail wait, too.
func (s *Server) reportCrashes(ctx context.Context, session string) {
	if s.keyless {
		return
	}
	var later []Crash
	for i, crash := range s.Crashes {
		told, err := s.reportCrash(ctx, &crash, session)
		if !told {
			later = append(later, crash)
		}
		if err != nil {
			s.Logger.Warn("hq could not be told of a crash; it is told later", "crash", crash.Kind, "error", err)
			later = append(later, s.Crashes[i+1:]...)
			break
		}
		if told {
			s.Logger.Info("hq was told of a crash", "crash", crash.Kind)
		}
	}
	s.Crashes = later
}

// reportCrash reports whether HQ was told of a crash.
func (s *Server) reportCrash(ctx context.Context, crash *Crash, session string) (told bool, err error) {
	url := ""
	if crash.Session != "" {
		end, err := s.client.EndSession(ctx, crash.Session, true)
		if err != nil && !hq.NotFound(err) {
			return false, err
		}
		url = end.ErrorURL
		if err != nil {
			crash.Session = "" // which HQ has forgotten
		}
	}
	if crash.Session == "" {
		if session == "" {
			return false, nil
		}
		if url, err = s.client.LogURL(ctx, session); err != nil {
			return false, err
		}
	}
	if url != "" && crash.Stderr != "" {
		if err := s.sendReport(ctx, url, crash.Stderr); err != nil {
			return false, err
		}
	}
	return true, crash.Forget()
}

func (s *Server) sendReport(ctx context.Context, url, text string) error {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, err := w.Write([]byte(telemetry.MaskText(text)))
	if err = errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("compress a crash report: %w", err)
	}
	_, err = s.client.Upload(ctx, url, bytes.NewReader(zipped.Bytes()))
	return err
}
