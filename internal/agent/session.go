package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/retry"
)

// closeTimeout bounds each step of an orderly end that depends on another program.
const closeTimeout = 10 * time.Second

// hqSession is one session with HQ. Its control channel is open from the start, also while
// the stream is still followed with the credential of the previous session.
type hqSession struct {
	agent    *Agent
	id       string // "": there is no HQ
	serverID string // as configured, else from the credential
	filters  []string
	conn     Connection
	channel  ControlChannel // nil: there is no HQ
	previous *hqSession     // that this one renews; nil: none

	// turn receives true once the session is to follow the stream, false if it is to end
	// instead. It is buffered.
	turn    chan bool
	current chan struct{} // closed after turn has received true
	done    chan struct{} // closed at the end; then next and err are final
	next    *hqSession    // that renews this one; nil: none
	err     error         // why the session ended

	end     context.CancelCauseFunc // stops following the stream
	renew   context.CancelCauseFunc // the same, but only to renew the session
	abandon context.CancelCauseFunc // stops applying received changes
	report  context.CancelFunc      // stops everything that only HQ's present session does

	reports   sync.WaitGroup // goroutines that report stops
	importing sync.Mutex     // held while HQ is notified that an import begins or has ended
}

// holdSession holds one session with HQ, from its start to its end, and returns why it
// ended.
func (a *Agent) holdSession(soft, hard context.Context) error {
	s := a.next
	if a.next = nil; s == nil {
		a.crashes.report(soft, "")
		var err error
		if s, err = a.openSession(soft, soft, hard, nil, func(err error) { a.Health.Set("session", err) }); err != nil {
			return err
		}
	}
	s.turn <- true
	<-s.done
	a.next = s.next
	return s.err
}

// dismissNext ends a session that was started to renew another one, if there is one.
func (a *Agent) dismissNext() {
	if a.next != nil {
		a.next.turn <- false
		<-a.next.done
		a.next = nil
	}
}

// openSession starts a session and runs it in a goroutine. It retries until ctx ends, and
// calls waits with the reason before each wait. Soft and hard are those of Run.
func (a *Agent) openSession(ctx, soft, hard context.Context, previous *hqSession, waits func(error)) (s *hqSession, err error) {
	started, err := a.startSession(ctx, waits)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			a.endSession(started.ID, failure(soft, err) != nil)
		}
	}()
	a.Health.Set("session", nil)
	a.crashes.report(ctx, started.ID)
	companies, err := a.companies(started.Credential)
	if err != nil {
		return nil, err
	}
	s = &hqSession{
		agent: a, id: started.ID, serverID: started.Credential.ServerID(), filters: reconciler.Subjects(companies), previous: previous,
		turn: make(chan bool, 1), current: make(chan struct{}), done: make(chan struct{}),
	}
	if a.Options.ServerID != "" {
		s.serverID = a.Options.ServerID
	}
	a.setServerID(s.serverID)
	if s.conn, err = a.NATS.Connect(ctx, started.Credential, s.serverID); err != nil {
		return nil, err
	}
	if s.id != "" {
		if s.channel, err = s.conn.OpenControlChannel(s.id); err != nil {
			s.conn.Close()
			return nil, err
		}
	}
	go s.run(soft, hard)
	return s, nil
}

// run runs the session to its end: it handles commands and sends reports at once, and
// follows the stream once it is the session's turn.
func (s *hqSession) run(soft, hard context.Context) {
	defer close(s.done)
	term, end := context.WithCancelCause(soft)
	due, renew := context.WithCancelCause(term)
	limit, abandon := context.WithCancelCause(hard)
	s.end, s.renew, s.abandon = end, renew, abandon
	open, closing := context.WithCancel(context.WithoutCancel(hard))
	reporting, report := context.WithCancel(open)
	s.report = report

	var background sync.WaitGroup
	background.Go(func() {
		select {
		case err := <-s.conn.Denied():
			end(err)
		case <-open.Done():
		}
	})
	background.Go(func() { s.boundDrain(open, soft, term) })
	if s.channel != nil {
		s.reports.Go(func() { s.sendHeartbeats(reporting) })
		s.reports.Go(func() { s.sendImportOutcomes(reporting) })
		background.Go(func() { s.handleCommands(open) })
		background.Go(func() { s.agent.logs.sendHourly(open, s.id) })
		background.Go(func() { s.renewInTime(term, soft, hard) })
	}
	if <-s.turn {
		close(s.current)
		s.err = s.followStream(due, limit)
	}

	closing()
	renew(nil)
	end(nil)
	background.Wait()
	s.reports.Wait()
	s.closeChannel(s.err)
	s.conn.Close()
	abandon(nil)
	if s.next == nil { // else the session has ended at HQ
		s.agent.endSession(s.id, failure(soft, s.err) != nil)
	}
}

// followStream follows the stream until the session ends or is to be renewed. A gap is
// returned at the end only: another session would find it again.
func (s *hqSession) followStream(due, hard context.Context) error {
	gap, err := s.agent.Reconciler.Run(due, hard, reconciler.Subscription{Conn: s.conn.NATS(), Consumer: s.consumer(), Filters: s.filters})
	if errors.Is(err, pipeline.ErrAbandoned) && errors.Is(context.Cause(hard), errDrain) {
		s.agent.Logger.Warn("the destination takes too long; the next session receives the changes again that were not applied")
		err = context.Cause(due)
	}
	if gap != nil && !errors.Is(err, errRenew) && !errors.Is(err, errRestart) {
		return gap
	}
	return err
}

// errDrain abandons received changes whose application takes too long after the session's
// term.
var errDrain = errors.New("the destination takes too long")

// boundDrain bounds for how long received changes are applied after the session's term, by
// this session and by its previous one. If the server stops, Run's caller decides.
func (s *hqSession) boundDrain(open, soft, term context.Context) {
	select {
	case <-term.Done():
	case <-open.Done():
	}
	if soft.Err() != nil || retry.Sleep(open, closeTimeout) != nil || soft.Err() != nil {
		return
	}
	s.abandon(errDrain)
	if s.previous != nil {
		s.previous.abandon(errDrain)
	}
}

// closeChannel sends the last responses and closes the control channel.
func (s *hqSession) closeChannel(err error) {
	if s.channel == nil {
		return
	}
	if errors.Is(err, errRestart) {
		s.logSendError(s.respond("restart", nil))
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if s.conn.IsConnected() {
		s.logSendError(s.channel.Flush(ctx))
	}
	if !s.conn.IsClosed() {
		s.logSendError(s.channel.Close())
	}
}

// logSendError logs that a message to HQ could not be sent.
func (s *hqSession) logSendError(err error) {
	if err != nil {
		s.agent.Logger.Warn("a message to hq could not be sent", "error", err)
	}
}

// renewInTime starts the next session after the configured time, while this session still
// follows the stream. If the previous session has not ended by then, nor within
// closeTimeout, because its destination does not answer, its unapplied changes are
// abandoned. Each session follows the stream for a while, so that frequent renewals cannot
// keep changes from being applied.
func (s *hqSession) renewInTime(term, soft, hard context.Context) {
	interval := s.agent.Options.RenewInterval
	if retry.Sleep(term, interval) != nil {
		return
	}
	if s.previous != nil {
		drained, cancel := context.WithTimeout(term, closeTimeout)
		s.awaitTurn(drained)
		cancel()
		if term.Err() != nil {
			return // boundDrain or Run's caller bounds the drain
		}
		s.previous.abandon(errDrain)
		s.awaitTurn(term)
		_ = retry.Sleep(term, min(interval, closeTimeout))
	}
	s.awaitTurn(term)
	if term.Err() != nil {
		return
	}
	s.agent.Logger.Info("renewing the session", "session", s.id)
	s.report()
	s.reports.Wait()
	// HQ allows one session for each server.
	if err := s.agent.HQ.AwaitSessionEnd(term, s.id); err != nil && term.Err() != nil {
		return
	}
	// This session still follows the stream, so health does not change during a wait.
	next, err := s.agent.openSession(term, soft, hard, s, func(error) {})
	if err != nil {
		s.renew(err)
		return
	}
	s.next = next
	s.renew(errRenew)
}

// awaitTurn waits until the session follows the stream or ctx ends.
func (s *hqSession) awaitTurn(ctx context.Context) {
	select {
	case <-s.current:
	case <-ctx.Done():
	}
}

// startSession starts a session with HQ. It retries until ctx ends, and calls waits with
// the reason before each wait.
func (a *Agent) startSession(ctx context.Context, waits func(error)) (hq.Session, error) {
	if a.Keyless {
		a.Logger.Info("there is no api key; using the local NATS without a session", "servers", hq.Redacted(a.Servers))
		return hq.Session{Credential: hq.Anonymous()}, nil
	}
	start := hq.SessionStart{Version: a.Version, ServerID: a.Options.ServerID, CompanyIDs: a.Options.CompanyIDs}
	if destination := a.Reconciler.Destination(); destination != nil {
		d := destination.Driver
		start.Driver = &hq.SessionDriver{ID: d.Name, Name: d.Title, Description: d.Summary, URL: destination.Masked}
	}
	hq.DescribeHost(ctx, &start)
	session, err := a.HQ.AwaitSession(ctx, start, func(err error, wait time.Duration) {
		waits(err)
		if hq.Conflict(err) {
			a.Logger.Warn("another server runs with this id; waiting for it to end", "server", a.Options.ServerID, "wait", wait)
			a.crashes.report(ctx, "") // it may have crashed on this machine
		}
	})
	if err != nil {
		return hq.Session{}, err
	}
	if a.SessionBegan != nil {
		a.SessionBegan(session.ID)
	}
	a.Logger.Info("the session began", "session", session.ID, "server", session.Credential.ServerID())
	return session, nil
}

// endSession ends the session at HQ and uploads its logs.
func (a *Agent) endSession(id string, errored bool) {
	if id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*closeTimeout)
	defer cancel()
	a.Logger.Info("the session ends", "session", id, "errored", errored)
	a.logs.sendOlder(ctx, id)
	end, err := a.HQ.EndSession(ctx, id, errored)
	if err != nil {
		a.Logger.Warn("hq does not know yet that the session ended", "session", id, "error", err)
		return
	}
	a.logs.sendLast(ctx, end.URL)
}

// companies returns the companies to follow: those that the credential allows, limited to
// --companyIds.
func (a *Agent) companies(c hq.Credential) ([]string, error) {
	allowed, wanted := c.CompanyIDs(), a.Options.CompanyIDs
	if len(allowed) == 0 {
		return nil, fault.Mark(fault.Fatal,
			errors.New("hq's credential for this server names no company; ask for the server to be given access to one"))
	}
	if len(wanted) == 0 || slices.Contains(wanted, reconciler.AllCompanies) {
		return allowed, nil
	}
	if slices.Contains(allowed, reconciler.AllCompanies) {
		return wanted, nil
	}
	for _, id := range wanted {
		if !slices.Contains(allowed, id) {
			return nil, fault.Mark(fault.Fatal,
				fmt.Errorf("--companyIds: this server may not read company %q; it may read %s", id, strings.Join(allowed, ", ")))
		}
	}
	return wanted, nil
}

// consumer returns the name of the durable consumer.
func (s *hqSession) consumer() string {
	name := "eds-" + s.serverID
	if suffix := s.agent.Options.ConsumerSuffix; suffix != "" {
		name += "-" + suffix
	}
	return name
}
