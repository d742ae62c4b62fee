package sink_test

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

var errPassword = errors.New("the server refuses the password")

func TestAccess_ClassifiesRefusalsByEarlierSuccess(t *testing.T) {
	refusal := &fault.Error{Class: fault.Refused, RetryAfter: 7, Err: errPassword}
	var reports []string
	a := sink.NewAccess(nil, false, func(err error) {
		text := "works"
		if err != nil {
			text = err.Error()
		}
		reports = append(reports, text)
	})
	var classes []string
	for _, err := range []error{
		refusal, errors.New("no route to host"), nil, nil, fault.Mark(fault.Poison, errPassword), refusal, errors.New("no route to host"),
		refusal, nil, nil,
	} {
		class := "success"
		if err = a.Outcome(err); err != nil {
			class = fault.Of(err).String()
		}
		classes = append(classes, class)
	}
	want := []string{"fatal", "transient", "success", "success", "poison", "transient", "transient", "transient", "success", "success"}
	if diff := cmp.Diff(want, classes); diff != "" {
		t.Errorf("classes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"works", errPassword.Error(), errPassword.Error(), "works"}, reports); diff != "" {
		t.Errorf("reports (-want +got):\n%s", diff)
	}
	err := sink.NewAccess(nil, true, nil).Outcome(refusal)
	if fault.Of(err) != fault.Transient || fault.RetryAfter(err) != 7 || !errors.Is(err, errPassword) {
		t.Errorf("a destination that has worked in an earlier process: %v: %v, after %v", fault.Of(err), err, fault.RetryAfter(err))
	}
}

func TestAccess_RejectsAURLAsFatalUnlessAFileIsUnusable(t *testing.T) {
	worked := sink.NewAccess(nil, true, nil)
	if err := worked.Reject(errors.New("an unknown option")); fault.Of(err) != fault.Fatal {
		t.Errorf("an unknown option is %v", fault.Of(err))
	}
	v, err := sink.ParseOptions(&url.URL{RawQuery: "tls-ca=/absent"}, []sink.Option{{Name: "tls-ca", Type: sink.FilePath{}}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.File("tls-ca")
	if got := worked.Reject(err); fault.Of(got) != fault.Transient {
		t.Errorf("a file that is absent is %v", fault.Of(got))
	}
	if got := sink.NewAccess(nil, false, nil).Reject(err); fault.Of(got) != fault.Fatal {
		t.Errorf("at the first start it is %v", fault.Of(got))
	}
}

func TestRenew_ReadsFilesEachTime(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	raw := "postgres://eds:${file:" + file + "}@host/shop"
	none := func(string) (string, bool) { return "", false }
	a := sink.NewAccess(func() (*url.URL, error) { return sink.ParseURL(raw, none) }, true, nil)
	password := func() (string, error) {
		return sink.Renew(a, nil, func(u *url.URL) (string, error) { p, _ := u.User.Password(); return p, nil })
	}
	for _, want := range []string{"first", "second"} {
		write(want + "\n")
		if got, err := password(); got != want || err != nil {
			t.Errorf("the password is %q, %v, want %q", got, err, want)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := password(); fault.Of(err) != fault.Refused || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("without the file: %v: %v", fault.Of(err), err)
	}
	given, err := url.Parse("postgres://eds:given@host/shop")
	if err != nil {
		t.Fatal(err)
	}
	_, err = sink.Renew(nil, given, func(u *url.URL) (string, error) {
		if u != given {
			t.Errorf("without placeholders it parses %v", u)
		}
		return "", errors.New("the key does not fit the certificate")
	})
	if fault.Of(err) != fault.Refused {
		t.Errorf("files that do not go together are %v", fault.Of(err))
	}
}
