package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/state"
)

// shift is one session with HQ. Its control channel is open from its start, also while
// the stream is still followed with the credential of the session before.
type shift struct {
	s        *Server
	sess     hq.Session
	serverID string // as asked for, else as the credential says
	conn     *nats.Conn
	line     *hq.Line // nil: there is no HQ
	filters  []string

	// term ends when the session has to; due, with it, or earlier if the session is to
	// be renewed. Hard ends what would take too long.
	term, due, hard context.Context
	end             context.CancelCauseFunc // of term
	renew           context.CancelCauseFunc // of due
	abandon         context.CancelCauseFunc // of hard

	duties    errgroup.Group
	off       context.CancelFunc // ends the duties
	reports   errgroup.Group     // the duties that only HQ's present session has
	silence   context.CancelFunc // ends the reports
	taken     chan struct{}      // closed when the session before this one has ended
	importing sync.Mutex         // held while HQ is told that an import begins, or has ended
}

// session holds one session with HQ, from its start to its end. Meanwhile it
// does what HQ asks for, and follows the stream into the destination.
func (s *Server) session(soft, hard context.Context) (err error) {
	sh := s.renewed
	if s.renewed = nil; sh == nil {
		s.reportCrashes(soft, "")
		if sh, err = s.openSession(soft, soft, hard, nil, func(err error) { s.Health.Set("session", err) }); err != nil {
			return err
		}
	}
	close(sh.taken)
	err = sh.reconcile()
	sh.close(err)
	if s.renewed == nil { // else HQ knows of the end already
		s.endSession(sh.sess, failure(soft, err) != nil)
	}
	return err
}

// openSession begins a session, however long that takes, unless ctx ends, and has HQ's
// commands handled from then on. Former is the session that it renews, if any. Soft and
// hard are those of Run. Before each wait it tells waits what for.
func (s *Server) openSession(ctx, soft, hard context.Context, former *shift, waits func(error)) (sh *shift, err error) {
	sess, err := s.startSession(ctx, waits)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.endSession(sess, failure(soft, err) != nil)
		}
	}()
	s.Health.Set("session", nil)
	s.reportCrashes(ctx, sess.ID)
	companies, err := s.companies(sess.Credential)
	if err != nil {
		return nil, err
	}
	sh = &shift{s: s, sess: sess, serverID: sess.Credential.ServerID(), filters: reconciler.Subjects(companies), taken: make(chan struct{})}
	if s.Options.ServerID != "" {
		sh.serverID = s.Options.ServerID
	}
	s.mu.Lock()
	s.identity = sh.serverID
	s.mu.Unlock()
	conn, denied, err := s.connect(ctx, sess.Credential, sh.serverID)
	if err != nil {
		return nil, err
	}
	sh.conn = conn
	if sess.ID != "" {
		if sh.line, err = hq.OpenLine(conn, sess.ID); err != nil {
			conn.Close()
			return nil, err
		}
	}
	sh.begin(soft, hard, former, denied)
	return sh, nil
}

// begin starts what the session does beside following the stream.
func (sh *shift) begin(soft, hard context.Context, former *shift, denied <-chan error) {
	sh.term, sh.end = context.WithCancelCause(soft)
	sh.due, sh.renew = context.WithCancelCause(sh.term)
	sh.hard, sh.abandon = context.WithCancelCause(hard)
	var on, reporting context.Context
	on, sh.off = context.WithCancel(context.WithoutCancel(hard))
	reporting, sh.silence = context.WithCancel(on)
	sh.duties.Go(func() error {
		select {
		case err := <-denied:
			sh.end(err)
		case <-on.Done():
		}
		return nil
	})
	sh.duties.Go(func() error { sh.boundDrain(on, soft, former); return nil })
	if sh.line != nil {
		sh.reports.Go(func() error { sh.beat(reporting); return nil })
		sh.reports.Go(func() error { sh.answerImports(reporting); return nil })
		sh.duties.Go(func() error { sh.obey(on); return nil })
		sh.duties.Go(func() error { sh.sendLogsHourly(on); return nil })
		sh.duties.Go(func() error { sh.renewInTime(soft, hard, former); return nil })
	}
}

// reconcile follows the stream until the session ends or is to be renewed. A gap matters
// at the end only: another session would meet it again.
func (sh *shift) reconcile() error {
	gap, err := sh.s.reconciler.Run(sh.due, sh.hard, reconciler.Subscription{Conn: sh.conn, Consumer: sh.consumer(), Filters: sh.filters})
	if errors.Is(err, pipeline.ErrAbandoned) && errors.Is(context.Cause(sh.hard), errDrain) {
		sh.s.Logger.Warn("the destination takes too long; the next session receives again what it has not applied")
		err = context.Cause(sh.due)
	}
	if gap != nil && !errors.Is(err, errRenew) && !errors.Is(err, errRestart) {
		return gap
	}
	return err
}

// errDrain ends what a session still applies after its term, if that takes too long.
var errDrain = errors.New("the destination takes too long")

// boundDrain bounds for how long the session goes on with what was received once its term
// has ended, and its former session with it. If the server stops, its caller decides.
func (sh *shift) boundDrain(on, soft context.Context, former *shift) {
	select {
	case <-sh.term.Done():
	case <-on.Done():
	}
	if soft.Err() != nil {
		return
	}
	sleep(on, farewell)
	if on.Err() != nil || soft.Err() != nil {
		return
	}
	sh.abandon(errDrain)
	if former != nil {
		former.abandon(errDrain)
	}
}

// close ends the duties of the session, which has ended with err, and its connection.
func (sh *shift) close(err error) {
	sh.off()
	sh.renew(nil)
	sh.end(nil)
	_, _ = sh.duties.Wait(), sh.reports.Wait() // they have no errors
	sh.sayGoodbye(err)
	sh.conn.Close()
	sh.abandon(nil)
}

// answerImports sends HQ the outcome of each import that it has requested, in whichever
// session that was. After a crash, or if the connection breaks meanwhile, HQ may receive
// one twice.
func (sh *shift) answerImports(ctx context.Context) {
	s := sh.s
	for {
		answer, ok := s.reconciler.AwaitOutcome(ctx)
		if !ok {
			return
		}
		err := reconciler.Retry(ctx, s.Health, s.Logger, "nats", func() error { return sh.answerImport(ctx, answer) })
		if err == nil {
			err = s.reconciler.OutcomeReceived(answer.ID)
		}
		if err != nil {
			sh.told(fmt.Errorf("answer the import %s: %w", answer.ID, err))
			return
		}
	}
}

func (sh *shift) answerImport(ctx context.Context, answer state.ImportOutcome) error {
	sh.importing.Lock()
	defer sh.importing.Unlock()
	var failed error
	if answer.Error != "" {
		failed = errors.New(answer.Error)
	}
	if !sh.conn.IsConnected() {
		return nats.ErrConnectionReconnecting // it would be sent later, and again
	}
	outcome := sh.line.Outcome("", failed)
	if failed == nil {
		outcome.Message = answer.Note
	}
	if err := sh.line.Answer("import", outcome); err != nil {
		return err
	}
	// The session may end meanwhile, but not the answer.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	return sh.line.Flush(ctx)
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

// renewInTime begins the next session when this one has lasted its time, while the stream
// is still followed with this one's credential. If the former session has not ended by
// then, nor within farewell, because its destination does not answer, what it has not
// applied is abandoned. The stream is followed for a while in each session, so that renewals
// that come soon keep nothing from being applied.
func (sh *shift) renewInTime(soft, hard context.Context, former *shift) {
	s, ctx := sh.s, sh.term
	sleep(ctx, s.Options.RenewInterval)
	if former != nil {
		drained, cancel := context.WithTimeout(ctx, farewell)
		sh.awaitTaken(drained)
		cancel()
		former.abandon(errDrain)
		sh.awaitTaken(ctx)
		sleep(ctx, min(s.Options.RenewInterval, farewell))
	}
	sh.awaitTaken(ctx)
	if ctx.Err() != nil {
		return
	}
	s.Logger.Info("renewing the session", "session", sh.sess.ID)
	sh.silence()
	_ = sh.reports.Wait() // they have no errors
	// HQ lets a server have one session.
	if _, err := s.client.Patient().EndSession(ctx, sh.sess.ID, false); err != nil && ctx.Err() != nil {
		return
	}
	next, err := s.openSession(ctx, soft, hard, sh, func(error) {}) // the stream is followed meanwhile, so nothing is wrong yet
	if err != nil {
		sh.renew(err)
		return
	}
	s.renewed = next
	sh.renew(errRenew)
}

// awaitTaken waits until the stream is followed in this session, or ctx ends.
func (sh *shift) awaitTaken(ctx context.Context) {
	select {
	case <-sh.taken:
	case <-ctx.Done():
	}
}

// startSession opens a session with HQ, however long it takes, and says before
// each wait what for.
func (s *Server) startSession(ctx context.Context, waits func(error)) (hq.Session, error) {
	if s.keyless {
		s.Logger.Info("there is no api key; using the local NATS without a session", "servers", hq.Redacted(s.servers()))
		return hq.Session{Credential: hq.Anonymous()}, nil
	}
	start := hq.SessionStart{Version: s.Build.Version, ServerID: s.Options.ServerID, CompanyIDs: s.Options.CompanyIDs}
	if destination := s.reconciler.Destination(); destination != nil {
		d := destination.Driver
		start.Driver = &hq.SessionDriver{ID: d.Name, Name: d.Title, Description: d.Summary, URL: destination.Masked}
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
func (s *Server) endSession(sess hq.Session, errored bool) {
	if sess.ID == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*farewell)
	defer cancel()
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
	if len(wanted) == 0 || slices.Contains(wanted, reconciler.AllCompanies) {
		return allowed, nil
	}
	if slices.Contains(allowed, reconciler.AllCompanies) {
		return wanted, nil
	}
	for _, id := range wanted {
		if !slices.Contains(allowed, id) {
			return nil, fault.Mark(fault.Fatal, fmt.Errorf("--companyIds: this server may not read company %q; it may read %s", id, strings.Join(allowed, ", ")))
		}
	}
	return wanted, nil
}

// consumer returns the name of the durable consumer.
func (sh *shift) consumer() string {
	name := "eds-" + sh.serverID
	if suffix := sh.s.Options.ConsumerSuffix; suffix != "" {
		name += "-" + suffix
	}
	return name
}
