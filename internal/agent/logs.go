package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// logInterval is the time between two uploads of the log.
const logInterval = time.Hour

var errNoLog = errors.New("this server keeps no log file")

// logUploader sends log files to HQ.
type logUploader struct {
	hq     API
	log    *telemetry.LogFile // nil if there is no log file
	keep   bool               // rename sent files instead of removing them
	logger *slog.Logger
	token  chan struct{} // has one item while no upload runs
}

func newLogUploader(api API, log *telemetry.LogFile, keep bool, logger *slog.Logger) *logUploader {
	u := &logUploader{hq: api, log: log, keep: keep, logger: logger, token: make(chan struct{}, 1)}
	u.token <- struct{}{}
	return u
}

// sendHourly immediately sends the finished files of earlier runs. After that, it sends the log
// every hour until ctx is done.
func (u *logUploader) sendHourly(ctx context.Context, session string) {
	if u.log == nil {
		return
	}
	u.logFailure(ctx, u.sendFinished(ctx, session))
	ticker := time.NewTicker(logInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		_, err := u.send(ctx, session)
		u.logFailure(ctx, err)
	}
}

func (u *logUploader) logFailure(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		u.logger.Warn("logs could not be sent to hq; they are kept, and sent later", "error", err)
	}
}

// send rotates the log and sends all finished files. It returns HQ's storage path of the newest
// file.
func (u *logUploader) send(ctx context.Context, session string) (path string, err error) {
	if u.log == nil {
		return "", errNoLog
	}
	if _, err := u.log.Rotate(ctx); err != nil {
		return "", err
	}
	return u.sendAll(ctx, session)
}

func (u *logUploader) sendFinished(ctx context.Context, session string) error {
	_, err := u.sendAll(ctx, session)
	return err
}

// sendAll sends all finished files, oldest first. If another upload is running, sendAll waits
// for its end.
func (u *logUploader) sendAll(ctx context.Context, session string) (path string, err error) {
	select {
	case <-u.token:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	defer func() { u.token <- struct{}{} }()
	files, err := u.log.Finished()
	if err != nil {
		return "", err
	}
	for _, file := range files {
		url, err := u.hq.LogURL(ctx, session)
		if err != nil {
			return path, err
		}
		if path, err = u.sendFile(ctx, url, file); err != nil {
			return path, err
		}
	}
	return path, nil
}

// sendFile uploads a finished file, and then removes or renames it.
func (u *logUploader) sendFile(ctx context.Context, url, file string) (path string, err error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil // deleted because the log files were too large
	}
	if err != nil {
		return "", fmt.Errorf("send a log: %w", err)
	}
	path, err = u.hq.Upload(ctx, url, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	if u.keep {
		err = os.Rename(file, telemetry.SentName(file))
	} else {
		err = os.Remove(file)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return path, fmt.Errorf("put a log away that was sent: %w", err)
	}
	return path, nil
}

// sendOlder sends the finished files at the end of a session. It only logs an error.
func (u *logUploader) sendOlder(ctx context.Context, session string) {
	if u.log == nil {
		return
	}
	if err := u.sendFinished(ctx, session); err != nil {
		u.logger.Warn("logs could not be sent to hq; they are kept, and sent later", "error", err)
	}
}

// sendLast sends the current log at the end of a session to the URL that HQ has returned. If
// that URL is "", sendLast sends nothing.
func (u *logUploader) sendLast(ctx context.Context, url string) {
	if u.log == nil || url == "" {
		return
	}
	file, err := u.log.Rotate(ctx)
	if err == nil {
		_, err = u.sendFile(ctx, url, file)
	}
	if err != nil {
		u.logger.Warn("the log of the session could not be sent to hq; it is kept, and sent later", "error", err)
	}
}
