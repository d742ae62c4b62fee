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

// closeTimeout is the maximum time for each step of a clean shutdown that depends on another
// program.
const closeTimeout = 10 * time.Second

// hqSession is one session with HQ. Its control channel is open from the start, even while the
// previous session still follows the stream.
type hqSession struct {
	agent    *Agent
	id       string // "" without HQ
	serverID string // the configured id, or else the id in the credential
	filters  []string
	conn     Connection
	channel  ControlChannel // nil without HQ
	previous *hqSession     // the session that this session renews, or nil

	// turn receives true when the session must start to follow the stream, or false when it
	// must end without having followed the stream. It is buffered.
	turn    chan bool
	current chan struct{} // closed after turn has received true
	done    chan struct{} // closed at the end of the session; next and err do not change after that
	next    *hqSession    // the session that renews this session, or nil
	err     error         // why the session ended

	end     context.CancelCauseFunc // stops following the stream
	renew   context.CancelCauseFunc // stops following the stream, but only to renew the session
	abandon context.CancelCauseFunc // stops applying received changes
	report  context.CancelFunc      // stops what only the current session at HQ may do: reports

	reports   sync.WaitGroup // the goroutines that the function report stops
	importing sync.Mutex     // held while HQ is notified of the start or end of an import
}

// holdSession holds one session with HQ from start to end, and returns the reason for its end.
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

// dismissNext ends the next session, which was started to renew the current one. If no next session
// was started, it does nothing.
func (a *Agent) dismissNext() {
	if a.next != nil {
		a.next.turn <- false
		<-a.next.done
		a.next = nil
	}
}

// openSession starts a session and runs it in a goroutine. It retries until ctx is done, and calls
// the function waits with the reason before each wait. The contexts soft and hard are those of Run.
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

// run runs the session until its end. It handles commands and sends reports from the start, but
// does not follow the stream until the channel turn receives true.
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
	s.previous = nil // frees it: otherwise each session would keep all earlier ones in memory
	s.reports.Wait()
	s.closeChannel(s.err)
	s.conn.Close()
	abandon(nil)
	if s.next == nil { // otherwise renewInTime has already ended the session at HQ
		s.agent.endSession(s.id, failure(soft, s.err) != nil)
	}
}

// followStream follows the stream until the session ends or must be renewed. It returns an error
// about a gap only if no renewal or restart follows. Otherwise the next session finds the gap
// again.
func (s *hqSession) followStream(due, hard context.Context) error {
	gap, err := s.agent.Reconciler.Run(due, hard, reconciler.StreamAccess{Conn: s.conn.NATS(), Consumer: s.consumer(), Filters: s.filters})
	if errors.Is(err, pipeline.ErrAbandoned) && errors.Is(context.Cause(hard), errDrain) {
		s.agent.Logger.Warn("the destination takes too long; the next session receives the changes again that were not applied")
		err = context.Cause(due)
	}
	if gap != nil && !errors.Is(err, errRenew) && !errors.Is(err, errRestart) {
		return gap
	}
	return err
}

// errDrain is the cause for abandoning received changes that are not applied in time after the
// session's term has ended.
var errDrain = errors.New("the destination takes too long")

// boundDrain limits the time for applying received changes after the session's term has ended.
// The limit also applies to the previous session. If the server is stopping, there is no limit
// here, because the caller of Run sets one.
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

// closeChannel sends the last responses of a session that ended with err, and closes the
// control channel.
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

// logSendError logs that a message to HQ could not be sent, unless err is nil.
func (s *hqSession) logSendError(err error) {
	if err != nil {
		s.agent.Logger.Warn("a message to hq could not be sent", "error", err)
	}
}

// renewInTime starts the next session when RenewInterval is over. The current session continues to
// follow the stream until the next one takes over. If the destination does not answer, the previous
// session may still be applying its changes when RenewInterval is over. In this case renewInTime
// waits for another closeTimeout, and then abandons the unapplied changes of the previous session.
// Each session follows the stream for some time before its renewal, so that frequent renewals
// cannot prevent changes from being applied.
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
			return // boundDrain or the caller of Run limits the drain
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
	// HQ allows only one session per server.
	if err := s.agent.HQ.AwaitSessionEnd(term, s.id); err != nil && term.Err() != nil {
		return
	}
	// This session still follows the stream, so a wait does not affect health.
	next, err := s.agent.openSession(term, soft, hard, s, func(error) {})
	if err != nil {
		s.renew(err)
		return
	}
	s.next = next
	s.renew(errRenew)
}

// awaitTurn waits until it is the session's turn to follow the stream, or ctx is done.
func (s *hqSession) awaitTurn(ctx context.Context) {
	select {
	case <-s.current:
	case <-ctx.Done():
	}
}

// startSession starts a session at HQ. It retries until ctx is done, and calls the function waits
// with the reason before each wait. Without HQ it returns a session with an anonymous credential.
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
			a.crashes.report(ctx, "") // the other server may have crashed on this machine
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

// endSession ends the session at HQ and uploads its logs. It does nothing without HQ.
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

// companies returns the ids of the companies to follow: the companies that the credential allows,
// or those of --companyIds. If --companyIds has a company that the credential does not allow, the
// result is an error.
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

// consumer returns the name of the durable consumer of the stream.
func (s *hqSession) consumer() string {
	name := "eds-" + s.serverID
	if suffix := s.agent.Options.ConsumerSuffix; suffix != "" {
		name += "-" + suffix
	}
	return name
}
