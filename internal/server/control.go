package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// action is what a control message asks for.
type action struct {
	// slow actions run beside the others; the rest are done in the order in
	// which HQ asked for them.
	slow bool
	do   func(sh *hqSession, ctx context.Context, cmd hq.Command) error
}

// actions returns what HQ may ask for, by name.
func actions() map[string]action {
	return map[string]action{
		"ping":         {do: (*hqSession).ping},
		"pause":        {do: (*hqSession).pause},
		"unpause":      {do: (*hqSession).unpause},
		"restart":      {do: (*hqSession).restart},
		"shutdown":     {do: (*hqSession).shutDown},
		"driverconfig": {do: (*hqSession).describeDrivers},
		"validate":     {do: (*hqSession).validate},
		"import":       {do: (*hqSession).handleImport},
		"configure":    {do: (*hqSession).configure, slow: true},
		"sendlogs":     {do: (*hqSession).sendLogsNow, slow: true},
		"upgrade":      {do: (*hqSession).upgrade, slow: true},
	}
}

// Results of control messages, for their count.
const (
	resultDone      = "done"
	resultFailed    = "failed"
	resultUnknown   = "unknown"
	resultMalformed = "malformed"
)

// handleCommands does what HQ asks for until ctx ends.
func (sh *hqSession) handleCommands(ctx context.Context) {
	s := sh.s
	if f := s.takeFailedUpgrade(); f != nil {
		outcome := hq.NewOutcome(sh.sess.ID, "", fmt.Errorf("version %s was taken back: %s", f.Version, f.Reason))
		outcome.Version = f.Version
		sh.logSendError(sh.channel.Respond("upgrade", outcome))
	}
	known := actions()
	var slow errgroup.Group
	defer func() { _ = slow.Wait() }() // they have no errors
	for {
		cmd, err := sh.channel.Next(ctx)
		if errors.As(err, new(*hq.MalformedError)) {
			s.commands.WithLabelValues("", resultMalformed).Inc()
			s.Logger.Warn("hq sent what is no control message", "error", err)
			continue
		}
		if err != nil {
			if ctx.Err() == nil {
				sh.end(err) // the line does not come back
			}
			return
		}
		a, ok := known[cmd.Action]
		switch {
		case !ok:
			s.commands.WithLabelValues("", resultUnknown).Inc()
			s.Logger.Warn("hq asks for what this version does not know; upgrade it", "action", fmt.Sprintf("%.40q", cmd.Action))
		case a.slow:
			slow.Go(func() error { sh.do(ctx, a, cmd); return nil })
		default:
			sh.do(ctx, a, cmd)
		}
	}
}

// do carries an order out, and counts it.
func (sh *hqSession) do(ctx context.Context, a action, cmd hq.Command) {
	sh.s.Logger.Info("hq asks for an action", "action", cmd.Action)
	result := resultDone
	if err := a.do(sh, ctx, cmd); err != nil {
		result = resultFailed
		sh.s.Logger.Warn("an action that hq asked for failed", "action", cmd.Action, "error", err)
	}
	sh.s.commands.WithLabelValues(cmd.Action, result).Inc()
}

// answer publishes the outcome of an action as its response, and returns cause.
func (sh *hqSession) answer(action string, cause error) error {
	return errors.Join(cause, sh.channel.Respond(action, hq.NewOutcome(sh.sess.ID, action, cause)))
}

func (sh *hqSession) ping(_ context.Context, cmd hq.Command) error {
	var data struct {
		Subject string `json:"subject"`
	}
	if err := cmd.Decode(&data); err != nil {
		return err
	}
	if data.Subject == "" {
		return errors.New("it names no subject to answer at")
	}
	return sh.channel.Pong(data.Subject)
}

func (sh *hqSession) pause(context.Context, hq.Command) error {
	return sh.answer("pause", sh.s.reconciler.Pause(true))
}

func (sh *hqSession) unpause(context.Context, hq.Command) error {
	return sh.answer("unpause", sh.s.reconciler.Pause(false))
}

// restart applies what was received and renews the session; its response is
// closeChannel's.
func (sh *hqSession) restart(context.Context, hq.Command) error {
	err := sh.channel.Acknowledge("restart", "restarting")
	sh.end(errRestart)
	return err
}

func (sh *hqSession) shutDown(_ context.Context, cmd hq.Command) error {
	var data struct {
		Message string  `json:"message"`
		Deleted hq.Bool `json:"deleted"`
	}
	if err := cmd.Decode(&data); err != nil {
		return err
	}
	sh.s.Logger.Warn("hq shuts this server down", "message", data.Message, "deleted", data.Deleted)
	var err error
	if data.Deleted {
		err = config.Update(sh.s.Options.ConfigFile(), func(f *config.File) { f.ServerID = "" })
	}
	sh.s.stop(errShutdown)
	return err
}

func (sh *hqSession) handleImport(_ context.Context, cmd hq.Command) error {
	var data struct {
		Backfill hq.Bool `json:"backfill"`
	}
	err := cmd.Decode(&data)
	sh.importing.Lock()
	defer sh.importing.Unlock()
	if err == nil {
		_, err = sh.s.reconciler.RequestImport(reconciler.ImportRequest{Options: snapshot.Options{SchemaOnly: !bool(data.Backfill), OwnTables: true}, HQ: true})
	}
	if err != nil {
		return errors.Join(err, sh.channel.Respond("import", hq.NewOutcome(sh.sess.ID, "", err)))
	}
	return sh.channel.Acknowledge("import", "the import begins")
}

func (sh *hqSession) sendLogsNow(ctx context.Context, _ hq.Command) error {
	path, err := sh.s.sendLogs(ctx, sh.sess.ID)
	answer := struct {
		Path      string `json:"path"`
		SessionID string `json:"sessionId"`
	}{path, sh.sess.ID}
	return errors.Join(err, sh.channel.Respond("sendlogs", answer))
}

// FailedUpgrade says that a version was begun and did not prove itself.
type FailedUpgrade struct{ Version, Reason string }

// takeFailedUpgrade returns what the first session tells HQ of a failed upgrade.
func (s *Server) takeFailedUpgrade() *FailedUpgrade {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.FailedUpgrade
	s.FailedUpgrade = nil
	return f
}

var errNoParent = errors.New("this server can not be replaced while it runs; stop it, and run: eds upgrade")

func (sh *hqSession) upgrade(ctx context.Context, cmd hq.Command) error {
	var data struct {
		Version string `json:"version"`
	}
	err := errors.Join(cmd.Decode(&data), sh.channel.Acknowledge("upgrade", "upgrading"))
	switch {
	case err != nil:
	case data.Version == "":
		err = errors.New("it names no version")
	case sh.s.Upgrade == nil:
		err = errNoParent
	default:
		err = sh.s.Upgrade(ctx, data.Version)
	}
	outcome := hq.NewOutcome(sh.sess.ID, "", err)
	outcome.Version = data.Version
	told := sh.channel.Respond("upgrade", outcome)
	if err == nil {
		sh.s.stop(ErrReplaced)
	}
	return errors.Join(err, told)
}

// driverMetadata describes a driver to HQ.
type driverMetadata struct {
	Scheme            string `json:"scheme"`
	Name              string `json:"name"`
	Description       string `json:"description"`
	ExampleURL        string `json:"exampleURL"`
	Help              string `json:"help"`
	SupportsImport    bool   `json:"supportsImport"`
	SupportsMigration bool   `json:"supportsMigration"`
}

type driverField struct {
	Name        string `json:"name"`
	Type        string `json:"type"`
	Format      string `json:"format,omitempty"`
	Default     string `json:"default,omitempty"`
	Description string `json:"description"`
	Required    bool   `json:"required"`
}

type driverForm struct {
	Metadata driverMetadata `json:"metadata"`
	Fields   []driverField  `json:"fields"`
}

func (sh *hqSession) describeDrivers(_ context.Context, cmd hq.Command) error {
	forms := make(map[string]driverForm)
	for _, d := range drivers.All() {
		if len(d.Fields) == 0 {
			continue // it can't be configured by a form
		}
		form := driverForm{Metadata: driverMetadata{
			Scheme: d.Schemes[0], Name: d.Title, Description: d.Summary, ExampleURL: d.Example, Help: d.Help,
			SupportsImport: true, SupportsMigration: d.KeepsRows,
		}}
		for _, f := range d.Fields {
			form.Fields = append(form.Fields, driverField{
				Name: f.Name, Type: f.Type, Format: f.Format, Default: f.Default, Description: f.Description, Required: f.Required,
			})
		}
		forms[d.Schemes[0]] = form
	}
	return sh.channel.Reply(cmd, struct {
		Drivers   map[string]driverForm `json:"drivers"`
		SessionID string                `json:"sessionId"`
	}{forms, sh.sess.ID})
}

type validation struct {
	Success   bool   `json:"success"`
	Message   string `json:"message,omitempty"`
	Messsage  string `json:"messsage,omitempty"` // HQ reads it under this name
	SessionID string `json:"sessionId"`
	URL       string `json:"url,omitempty"` // with its secrets: HQ sends it back to configure

	FieldErrors []sink.FieldError `json:"field_errors,omitempty"`
}

func (sh *hqSession) validate(_ context.Context, cmd hq.Command) error {
	url, wrong, err := buildURL(cmd)
	v := validation{Success: err == nil && len(wrong) == 0, SessionID: sh.sess.ID, URL: url, FieldErrors: wrong}
	switch {
	case err != nil:
		v.Message = err.Error()
	case len(wrong) > 0:
		v.Message = "some fields have to be corrected"
	}
	if !v.Success {
		v.URL = ""
	}
	v.Messsage = v.Message
	return sh.channel.Reply(cmd, v)
}

// buildURL makes a URL of the values of a form.
func buildURL(cmd hq.Command) (string, []sink.FieldError, error) {
	var data struct {
		Driver string                     `json:"driver"`
		Config map[string]json.RawMessage `json:"config"`
	}
	if err := cmd.Decode(&data); err != nil {
		return "", nil, err
	}
	driver, err := drivers.Find(data.Driver)
	if err != nil {
		return "", nil, err
	}
	if driver.URL == nil {
		return "", nil, fmt.Errorf("%s has no form; give its url", driver.Title)
	}
	values := make(map[string]string)
	var wrong []sink.FieldError
	for _, f := range driver.Fields {
		value, ok := fieldText(data.Config[f.Name])
		if !ok {
			wrong = append(wrong, sink.FieldError{Field: f.Name, Error: "it should be a text, a number, or true or false"})
			continue
		}
		if strings.TrimSpace(value) == "" {
			value = f.Default
		}
		values[f.Name] = value
	}
	if wrong != nil {
		return "", wrong, nil
	}
	url, wrong := driver.URL(values)
	return url, wrong, nil
}

// fieldText returns a field's value as text; an absent one is "".
func fieldText(raw json.RawMessage) (text string, ok bool) {
	switch {
	case len(raw) == 0 || string(raw) == "null":
		return "", true
	case raw[0] == '"':
		return text, json.Unmarshal(raw, &text) == nil
	case raw[0] == '{' || raw[0] == '[':
		return "", false
	}
	if _, err := strconv.ParseBool(string(raw)); err == nil {
		return string(raw), true
	}
	return string(raw), json.Valid(raw)
}

type configured struct {
	Success   bool   `json:"success"`
	Message   string `json:"message,omitempty"`
	MaskedURL string `json:"maskedURL,omitempty"`
	SessionID string `json:"sessionId"`
	Backfill  bool   `json:"backfill"`
}

// configure tests a destination, keeps it where it works, and follows the stream
// into it from then on.
func (sh *hqSession) configure(ctx context.Context, cmd hq.Command) error {
	var data struct {
		URL            string  `json:"url"`
		Backfill       hq.Bool `json:"backfill"`
		UpdateStrategy string  `json:"updateStrategy"`
	}
	err := cmd.Decode(&data)
	answer := configured{SessionID: sh.sess.ID, Backfill: bool(data.Backfill)}
	if err == nil {
		answer.MaskedURL, err = sh.moveTo(ctx, strings.TrimSpace(data.URL), data.UpdateStrategy)
	}
	answer.Success = err == nil
	if err != nil {
		answer.Message = err.Error()
	}
	return errors.Join(err, sh.channel.Reply(cmd, answer))
}

func (sh *hqSession) moveTo(ctx context.Context, raw, strategy string) (masked string, err error) {
	s := sh.s
	if raw == "" {
		return "", errors.New("there is no url")
	}
	update, err := config.ParseUpdateStrategy(strategy)
	if err != nil {
		return "", err
	}
	// Only the operator's own URLs take values from the environment and from files.
	url := config.NewSecret(sink.Literal(raw))
	d, err := reconciler.ParseForeignDestination(url, update, s.Lookup)
	if err != nil {
		return "", err
	}
	testing, cancel := context.WithTimeoutCause(ctx, testTime, fmt.Errorf("no answer within %v", testTime))
	defer cancel()
	if err := s.reconciler.Test(testing, d); err != nil {
		return "", err
	}
	err = s.reconciler.SetDestination(d, func() error {
		return config.Update(s.Options.ConfigFile(), func(f *config.File) { f.URL, f.UpdateStrategy = url, update })
	})
	if err != nil {
		return "", err
	}
	s.Logger.Info("hq has configured a destination", "url", d.Masked, "updateStrategy", update)
	if s.Options.URLGiven {
		s.Logger.Warn("the next start takes the destination of --url again, as long as that is on the command line")
	}
	return d.Masked, nil
}

// testTime bounds the test of a destination that HQ asks for, whose form waits
// for the answer.
const testTime = time.Minute
