package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/sink"
)

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

// driverForm is the form with which HQ's user configures a destination.
type driverForm struct {
	Metadata driverMetadata `json:"metadata"`
	Fields   []driverField  `json:"fields"`
}

// describeDrivers replies with the forms of all drivers that have a form, keyed by URL scheme.
func (s *hqSession) describeDrivers(_ context.Context, cmd hq.Command) error {
	forms := make(map[string]driverForm)
	for _, d := range drivers.All() {
		if len(d.Fields) == 0 {
			continue
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
	return s.channel.Reply(cmd, struct {
		Drivers   map[string]driverForm `json:"drivers"`
		SessionID string                `json:"sessionId"`
	}{forms, s.id})
}

type validation struct {
	Success   bool   `json:"success"`
	Message   string `json:"message,omitempty"`
	Messsage  string `json:"messsage,omitempty"` // the misspelled name under which HQ reads Message
	SessionID string `json:"sessionId"`
	URL       string `json:"url,omitempty"` // with secrets, because HQ sends this URL back in the command configure

	FieldErrors []sink.FieldError `json:"field_errors,omitempty"`
}

// validate replies with the destination URL for the values of a form, or with errors for the
// invalid fields.
func (s *hqSession) validate(_ context.Context, cmd hq.Command) error {
	url, wrong, err := destinationURL(cmd)
	v := validation{Success: err == nil && len(wrong) == 0, SessionID: s.id, URL: url, FieldErrors: wrong}
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
	return s.channel.Reply(cmd, v)
}

// destinationURL returns the destination URL for the values of a form, or errors for the
// invalid fields.
func destinationURL(cmd hq.Command) (string, []sink.FieldError, error) {
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
		return "", nil, fmt.Errorf("%s has no form; configure its url", driver.Title)
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

// fieldText returns the value of a field as text, or "" if the value is missing. If the value is an
// object or an array, the result ok is false.
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

// configure tests a destination. If the test succeeds, configure saves the destination, and the
// reconciler switches to it.
func (s *hqSession) configure(ctx context.Context, cmd hq.Command) error {
	var data struct {
		URL            string         `json:"url"`
		Backfill       hq.LenientBool `json:"backfill"`
		UpdateStrategy string         `json:"updateStrategy"`
	}
	err := cmd.Decode(&data)
	response := configured{SessionID: s.id, Backfill: bool(data.Backfill)}
	if err == nil {
		response.MaskedURL, err = s.agent.switchDestination(ctx, strings.TrimSpace(data.URL), data.UpdateStrategy)
	}
	response.Success = err == nil
	if err != nil {
		response.Message = err.Error()
	}
	return errors.Join(err, s.channel.Reply(cmd, response))
}

// testTimeout is the maximum time for the test of a destination. A user waits for the result at
// HQ's form.
const testTimeout = time.Minute

func (a *Agent) switchDestination(ctx context.Context, raw, strategy string) (masked string, err error) {
	if raw == "" {
		return "", errors.New("there is no url")
	}
	update, err := config.ParseUpdateStrategy(strategy)
	if err != nil {
		return "", err
	}
	// Only the operator's URLs may refer to environment variables and files.
	url := config.NewSecret(sink.Literal(raw))
	d, err := reconciler.ParseForeignDestination(url, update, a.Lookup)
	if err != nil {
		return "", err
	}
	testing, cancel := context.WithTimeoutCause(ctx, testTimeout, fmt.Errorf("no answer within %v", testTimeout))
	defer cancel()
	if err := a.Reconciler.Test(testing, d); err != nil {
		return "", err
	}
	err = a.Reconciler.SetDestination(d, func() error {
		return config.Update(a.Options.ConfigFile(), func(f *config.File) { f.URL, f.UpdateStrategy = url, update })
	})
	if err != nil {
		return "", err
	}
	a.Logger.Info("hq has configured a destination", "url", d.Masked, "updateStrategy", update)
	if a.Options.URLGiven {
		a.Logger.Warn("the next start takes the destination of --url again, as long as that is on the command line")
	}
	return d.Masked, nil
}
