package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
)

// shift is one session with HQ: from its start until soft ends, or something
// else ends it.
type shift struct {
	s       *Server
	sess    hq.Session
	conn    *nats.Conn
	line    *hq.Line // nil: there is no HQ
	filters []string

	// term ends when the session has to; due, with it, or earlier where the
	// session is to be renewed. Hard ends what would take too long.
	term, due, hard context.Context
	end             context.CancelCauseFunc // of term
	renew           context.CancelCauseFunc // of due
}

// session holds one session with HQ, from its start to its end. Meanwhile it
// does what HQ asks for, and follows the stream into the destination.
func (s *Server) session(soft, hard context.Context) (err error) {
	sess, err := s.nextSession(soft)
	if err != nil {
		return err
	}
	s.Health.Set("session", nil)
	defer func() {
		if soft.Err() != nil && errors.Is(err, context.Cause(soft)) {
			err = nil // it is what was wished for
		}
		s.endSession(sess, err)
	}()

	s.reportCrashes(soft, sess.ID)
	companies, err := s.companies(sess.Credential)
	if err != nil {
		return err
	}
	s.serverID = sess.Credential.ServerID()
	if s.Options.ServerID != "" {
		s.serverID = s.Options.ServerID
	}
	s.mu.Lock()
	s.identity = s.serverID
	s.mu.Unlock()
	conn, denied, err := s.connect(soft, sess.Credential)
	if err != nil {
		return err
	}
	defer conn.Close()
	sh := &shift{s: s, sess: sess, conn: conn, filters: subjects(companies), hard: hard}
	sh.term, sh.end = context.WithCancelCause(soft)
	defer sh.end(nil)
	sh.due, sh.renew = context.WithCancelCause(sh.term)
	defer sh.renew(nil)
	if sess.ID != "" {
		if sh.line, err = hq.OpenLine(conn, sess.ID); err != nil {
			return err
		}
	}
	return sh.run(denied)
}

// run attends to the stream, and beside it to everything else that a session asks for.
func (sh *shift) run(denied <-chan error) error {
	on, off := context.WithCancel(context.WithoutCancel(sh.hard))
	defer off()
	var duties errgroup.Group
	duties.Go(func() error {
		select {
		case err := <-denied:
			sh.end(err)
		case <-on.Done():
		}
		return nil
	})
	if sh.line != nil {
		duties.Go(func() error { sh.beat(on); return nil })
		duties.Go(func() error { sh.obey(on); return nil })
		duties.Go(func() error { sh.sendLogsHourly(on); return nil })
		duties.Go(func() error { sh.renewInTime(sh.term); return nil })
	}
	err := sh.attend()
	off()
	sh.renew(nil)
	sh.end(nil)
	_ = duties.Wait() // they have no errors
	sh.sayGoodbye(err)
	return err
}

// sayGoodbye answers what is answered last, and closes the line.
func (sh *shift) sayGoodbye(err error) {
	if sh.line == nil {
		return
	}
	if errors.Is(err, errRestart) {
		sh.told(sh.line.Answer("restart", sh.line.Outcome("restart", nil)))
	}
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	if sh.conn.IsConnected() {
		sh.told(sh.line.Flush(ctx))
	}
	if !sh.conn.IsClosed() {
		sh.told(sh.line.Close())
	}
}

// told logs that HQ could not be told something.
func (sh *shift) told(err error) {
	if err != nil {
		sh.s.Logger.Warn("hq could not be told", "error", err)
	}
}

// renewInTime begins the next session when this one has lasted its time, while
// the stream is still followed with this one's credential. An import is let end
// first: HQ hears of it in the session in which it has asked for it.
func (sh *shift) renewInTime(ctx context.Context) {
	s := sh.s
	sleep(ctx, s.Options.RenewInterval)
	s.wishes.awaitImport(ctx)
	if ctx.Err() != nil {
		return
	}
	s.Logger.Info("renewing the session", "session", sh.sess.ID)
	// HQ lets a server have one session.
	if _, err := s.client.Patient().EndSession(ctx, sh.sess.ID, false); err != nil && ctx.Err() != nil {
		return
	}
	next, err := s.startSession(ctx, func(error) {}) // the stream is followed meanwhile, so nothing is wrong yet
	if ctx.Err() != nil && err == nil {
		s.endSession(next, nil)
		return
	}
	if err != nil {
		sh.renew(err)
		return
	}
	s.renewed = &next
	sh.renew(errRenew)
}

// nextSession returns the session that was begun already, or begins one.
func (s *Server) nextSession(ctx context.Context) (hq.Session, error) {
	if next := s.renewed; next != nil {
		s.renewed = nil
		return *next, nil
	}
	s.reportCrashes(ctx, "")
	return s.startSession(ctx, func(err error) { s.Health.Set("session", err) })
}

// startSession opens a session with HQ, however long it takes, and says before
// each wait what for.
func (s *Server) startSession(ctx context.Context, waits func(error)) (hq.Session, error) {
	if s.keyless {
		s.Logger.Info("there is no api key; using the local NATS without a session", "servers", s.servers())
		return hq.Session{Credential: hq.Anonymous()}, nil
	}
	start := hq.SessionStart{Version: s.Build.Version, ServerID: s.Options.ServerID, CompanyIDs: s.Options.CompanyIDs}
	if wanted, _ := s.wishes.now(); wanted.place != nil {
		d := wanted.place.driver
		start.Driver = &hq.SessionDriver{ID: d.Name, Name: d.Title, Description: d.Summary, URL: wanted.place.masked}
	}
	hq.DescribeHost(ctx, &start)
	sess, err := s.client.Patient().Telling(waits).AwaitSession(ctx, start, func(err error, wait time.Duration) {
		waits(err)
		s.Logger.Warn("another server runs with this id; waiting for it to end", "server", s.Options.ServerID, "wait", wait)
		s.reportCrashes(ctx, "") // it may be one of this machine that has crashed
	})
	if err != nil {
		return hq.Session{}, err
	}
	if s.SessionBegan != nil {
		s.SessionBegan(sess.ID)
	}
	s.Logger.Info("the session began", "session", sess.ID, "server", sess.Credential.ServerID())
	return sess, nil
}

// endSession tells HQ that the session is over, and whether by a failure, and
// sends it the log.
func (s *Server) endSession(sess hq.Session, cause error) {
	if sess.ID == "" || errors.Is(cause, errRenew) { // HQ knows of that end already
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*farewell)
	defer cancel()
	errored := cause != nil && !errors.Is(cause, errRestart) && !errors.Is(cause, context.Canceled)
	s.Logger.Info("the session ends", "session", sess.ID, "errored", errored)
	s.sendOlderLogs(ctx, sess.ID)
	end, err := s.client.EndSession(ctx, sess.ID, errored)
	if err != nil {
		s.Logger.Warn("hq could not be told that the session ended", "session", sess.ID, "error", err)
		return
	}
	s.sendLastLog(ctx, end.URL)
}

// companies returns the companies to follow: those of the credential, less those
// that were not asked for.
func (s *Server) companies(c hq.Credential) ([]string, error) {
	allowed, wanted := c.CompanyIDs(), s.Options.CompanyIDs
	if len(allowed) == 0 {
		return nil, fault.Mark(fault.Fatal, errors.New("hq's credential for this server names no company; ask for the server to be given access to one"))
	}
	if len(wanted) == 0 || slices.Contains(wanted, "*") {
		return allowed, nil
	}
	if slices.Contains(allowed, "*") {
		return wanted, nil
	}
	for _, id := range wanted {
		if !slices.Contains(allowed, id) {
			return nil, fault.Mark(fault.Fatal, fmt.Errorf("--companyIds: this server may not read company %q; it may read %s", id, strings.Join(allowed, ", ")))
		}
	}
	return wanted, nil
}

// subjects returns the subjects of the companies' changes.
func subjects(companies []string) []string {
	filters := make([]string, len(companies))
	for i, id := range companies {
		filters[i] = "dbchange.*.*." + id + ".*.PUBLIC.>"
	}
	slices.Sort(filters)
	return slices.Compact(filters)
}

// consumer returns the name of the durable consumer.
func (s *Server) consumer() string {
	name := "eds-" + s.serverID
	if s.Options.ConsumerSuffix != "" {
		name += "-" + s.Options.ConsumerSuffix
	}
	return name
}
