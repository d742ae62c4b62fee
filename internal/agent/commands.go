package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// commandHandler handles all commands that request a certain action.
type commandHandler struct {
	// slow means that the commands are handled concurrently. Otherwise they are handled in the
	// order in which HQ sends them.
	slow   bool
	handle func(s *hqSession, ctx context.Context, cmd hq.Command) error
}

// handlers returns the handlers of HQ's commands, keyed by action.
func handlers() map[string]commandHandler {
	return map[string]commandHandler{
		"ping":         {handle: (*hqSession).ping},
		"pause":        {handle: (*hqSession).pause},
		"unpause":      {handle: (*hqSession).unpause},
		"restart":      {handle: (*hqSession).restart},
		"shutdown":     {handle: (*hqSession).shutDown},
		"driverconfig": {handle: (*hqSession).describeDrivers},
		"validate":     {handle: (*hqSession).validate},
		"import":       {handle: (*hqSession).requestImport},
		"configure":    {handle: (*hqSession).configure, slow: true},
		"sendlogs":     {handle: (*hqSession).sendLogs, slow: true},
		"upgrade":      {handle: (*hqSession).upgrade, slow: true},
	}
}

// Values of the label "result" of the metric eds_control_messages_total.
const (
	resultDone      = "done"
	resultFailed    = "failed"
	resultUnknown   = "unknown"
	resultMalformed = "malformed"
)

// handleCommands handles HQ's commands until ctx is done. If the control channel fails,
// handleCommands ends the session.
func (s *hqSession) handleCommands(ctx context.Context) {
	s.reportFailedUpgrade()
	known := handlers()
	var slow sync.WaitGroup
	defer slow.Wait()
	for {
		cmd, err := s.channel.Next(ctx)
		if errors.As(err, new(*hq.MalformedCommandError)) {
			s.agent.commands.WithLabelValues("", resultMalformed).Inc()
			s.agent.Logger.Warn("hq sent a malformed control message", "error", err)
			continue
		}
		if err != nil {
			if ctx.Err() == nil {
				s.end(err)
			}
			return
		}
		h, ok := known[cmd.Action]
		switch {
		case !ok:
			s.agent.commands.WithLabelValues("", resultUnknown).Inc()
			action := fmt.Sprintf("%.40q", cmd.Action)
			s.agent.Logger.Warn("hq sent a command that this version of eds does not know; upgrade eds", "action", action)
		case h.slow:
			slow.Go(func() { s.handleCommand(ctx, h, cmd) })
		default:
			s.handleCommand(ctx, h, cmd)
		}
	}
}

// handleCommand handles one command and counts it in the metrics.
func (s *hqSession) handleCommand(ctx context.Context, h commandHandler, cmd hq.Command) {
	s.agent.Logger.Info("hq sent a command", "action", cmd.Action)
	result := resultDone
	if err := h.handle(s, ctx, cmd); err != nil {
		result = resultFailed
		s.agent.Logger.Warn("a command of hq failed", "action", cmd.Action, "error", err)
	}
	s.agent.commands.WithLabelValues(cmd.Action, result).Inc()
}

func (s *hqSession) outcome(action string, cause error) hq.Outcome {
	return hq.NewOutcome(s.id, action, cause)
}

// respond sends the outcome of an action to HQ. It returns the parameter cause, joined with the
// error from sending if there is one.
func (s *hqSession) respond(action string, cause error) error {
	return errors.Join(cause, s.channel.Respond(action, s.outcome(action, cause)))
}

func (s *hqSession) ping(_ context.Context, cmd hq.Command) error {
	var data struct {
		Subject string `json:"subject"`
	}
	if err := cmd.Decode(&data); err != nil {
		return err
	}
	if data.Subject == "" {
		return errors.New("the ping names no subject to answer at")
	}
	return s.channel.Pong(data.Subject)
}

func (s *hqSession) pause(context.Context, hq.Command) error {
	return s.respond("pause", s.agent.Reconciler.Pause(true))
}

func (s *hqSession) unpause(context.Context, hq.Command) error {
	return s.respond("unpause", s.agent.Reconciler.Pause(false))
}

// restart ends the session after the received changes have been applied. The method closeChannel
// then sends the response.
func (s *hqSession) restart(context.Context, hq.Command) error {
	err := s.channel.Acknowledge("restart", "restarting")
	s.end(errRestart)
	return err
}

func (s *hqSession) shutDown(_ context.Context, cmd hq.Command) error {
	var data struct {
		Message string         `json:"message"`
		Deleted hq.LenientBool `json:"deleted"`
	}
	if err := cmd.Decode(&data); err != nil {
		return err
	}
	s.agent.Logger.Warn("hq shuts this server down", "message", data.Message, "deleted", data.Deleted)
	var err error
	if data.Deleted {
		err = config.Update(s.agent.Options.ConfigFile(), func(f *config.File) { f.ServerID = "" })
	}
	s.agent.stop(errShutdown)
	return err
}

func (s *hqSession) requestImport(_ context.Context, cmd hq.Command) error {
	var data struct {
		Backfill hq.LenientBool `json:"backfill"`
	}
	err := cmd.Decode(&data)
	s.importing.Lock()
	defer s.importing.Unlock()
	if err == nil {
		options := snapshot.Options{SchemaOnly: !bool(data.Backfill), OwnTables: true}
		_, err = s.agent.Reconciler.RequestImport(reconciler.ImportRequest{Options: options, HQ: true})
	}
	if err != nil {
		return errors.Join(err, s.channel.Respond("import", s.outcome("", err)))
	}
	return s.channel.Acknowledge("import", "the import begins")
}

func (s *hqSession) sendLogs(ctx context.Context, _ hq.Command) error {
	path, err := s.agent.logs.send(ctx, s.id)
	response := struct {
		Path      string `json:"path"`
		SessionID string `json:"sessionId"`
	}{path, s.id}
	return errors.Join(err, s.channel.Respond("sendlogs", response))
}

// FailedUpgrade is an upgrade that was rolled back because the new version did not work.
type FailedUpgrade struct{ Version, Reason string }

// reportFailedUpgrade reports a failed upgrade to HQ, if there is one. It reports each failed
// upgrade only once.
func (s *hqSession) reportFailedUpgrade() {
	a := s.agent
	a.mu.Lock()
	failed := a.FailedUpgrade
	a.FailedUpgrade = nil
	a.mu.Unlock()
	if failed != nil {
		outcome := s.outcome("", fmt.Errorf("version %s was taken back: %s", failed.Version, failed.Reason))
		outcome.Version = failed.Version
		s.logSendError(s.channel.Respond("upgrade", outcome))
	}
}

var errNoParent = errors.New("this server cannot be replaced while it runs; stop it, and run: eds upgrade")

func (s *hqSession) upgrade(ctx context.Context, cmd hq.Command) error {
	var data struct {
		Version string `json:"version"`
	}
	err := errors.Join(cmd.Decode(&data), s.channel.Acknowledge("upgrade", "upgrading"))
	switch {
	case err != nil:
	case data.Version == "":
		err = errors.New("the command names no version")
	case s.agent.Upgrade == nil:
		err = errNoParent
	default:
		err = s.agent.Upgrade(ctx, data.Version)
	}
	outcome := s.outcome("", err)
	outcome.Version = data.Version
	sendErr := s.channel.Respond("upgrade", outcome)
	if err == nil {
		s.agent.stop(ErrReplaced)
	}
	return errors.Join(err, sendErr)
}
