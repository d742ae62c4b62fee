package server

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

func TestOperator_RequestsAreForTheDestinationOfTheServer(t *testing.T) {
	url := "file://" + t.TempDir()
	s := newServer(t, startHQ(t, devhq.Options{}), telemetry.NewHealth(), func(o *config.ServerSettings) { o.URL = config.NewSecret(url) })
	identity := s.reconciler.Destination().Identity
	const id = "0b0a3c9e-6d0e-4a6b-9a55-0d6c0f3f2d11"

	other := new(OtherDestinationError)
	err := s.RequestImport(id, "another", snapshot.Options{})
	if !errors.As(err, &other) || other.Destination != url || !strings.Contains(err.Error(), "leave --url out") {
		t.Errorf("import into another destination: %v", err)
	}
	if err := s.Verified("another", Verification{}); !errors.As(err, &other) {
		t.Errorf("verification of another destination: %v", err)
	}
	if err := s.Verified(identity, Verification{}); err != nil {
		t.Errorf("verification: %v", err)
	}
	if _, err := s.AcceptGap("unknown", ""); err == nil {
		t.Error("an unknown gap is accepted")
	}
	if err := s.CancelImport(id); err == nil {
		t.Error("an unknown import is canceled")
	}
	for range 2 { // the second request does nothing
		if err := s.RequestImport(id, identity, snapshot.Options{}); err != nil {
			t.Errorf("import: %v", err)
		}
	}
	if r := s.Report(); r.ImportID != id || r.Destination != url {
		t.Errorf("report: %+v", r)
	}
	if err := s.CancelImport(id); err != nil {
		t.Errorf("cancel: %v", err)
	}
	if _, err := s.WatchImport(context.WithoutCancel(t.Context()), id, nil); err == nil {
		t.Error("a canceled import has succeeded")
	}
}

func TestNew_RejectsConfigurations(t *testing.T) {
	h := startHQ(t, devhq.Options{})
	missing := t.TempDir() + "/missing"
	for name, c := range map[string]struct {
		change func(*config.ServerSettings)
		want   string
	}{
		"malformed key": {func(o *config.ServerSettings) { o.APIKey = config.NewSecret("x") }, "the api key is malformed"},
		"no key": {func(o *config.ServerSettings) {
			o.APIKey, o.Servers = config.Secret{}, []string{"nats://192.0.2.1"}
		}, "there is no api key"},
		"no destination and no HQ": {func(o *config.ServerSettings) { o.APIKey = config.Secret{} }, "there is no destination"},
		"api url":                  {func(o *config.ServerSettings) { o.APIURL = "gopher://x" }, "the address of hq's api"},
		"destination":              {func(o *config.ServerSettings) { o.URL = config.NewSecret("gopher://x") }, "gopher"},
		"rules":                    {func(o *config.ServerSettings) { o.SchemaValidator = missing }, missing},
	} {
		t.Run(name, func(t *testing.T) {
			o, dir := serverOptions(t, h)
			c.change(&o)
			_, err := New(serverConfig(o, dir))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestNeedsEnrolment_UnlessThereIsAKeyOrALocalNATS(t *testing.T) {
	for name, c := range map[string]struct {
		options config.ServerSettings
		want    bool
	}{
		"nothing":     {config.ServerSettings{}, true},
		"key":         {config.ServerSettings{HQSettings: config.HQSettings{APIKey: config.NewSecret("k")}}, false},
		"local NATS":  {config.ServerSettings{Servers: []string{"nats://localhost:4222", "nats://127.0.0.1"}}, false},
		"remote NATS": {config.ServerSettings{Servers: []string{"nats://localhost:4222", "nats://192.0.2.1"}}, true},
		"local API":   {config.ServerSettings{HQSettings: config.HQSettings{APIURL: "http://localhost:3101"}}, false},
		"remote API":  {config.ServerSettings{HQSettings: config.HQSettings{APIURL: "https://192.0.2.1"}}, true},
	} {
		if got := NeedsEnrolment(c.options); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestNeedsOperator_UnlessTheTableIsRepaired(t *testing.T) {
	for want, states := range map[bool][]sink.TableState{
		true: {
			{State: sink.Missing},
			{State: sink.Incomplete},
			{State: sink.Behind, Cause: sink.CauseRefused},
			{State: sink.Behind, Cause: sink.CausePoison},
		},
		false: {{State: sink.Incomplete, Accepted: true}, {State: sink.Behind}},
	} {
		for i := range states {
			if needsOperator(&states[i]) != want {
				t.Errorf("%+v needs the operator: %v", states[i], !want)
			}
		}
	}
}
