package e2e_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

// mayRead gives the server a key for some companies only.
func (w *world) mayRead(companies ...string) {
	w.companies = companies
	w.key = w.hq.APIKey(devhq.KeyOptions{ServerID: w.id, Companies: companies})
}

// warnsOf expects health to warn of a company, and of nothing worse.
func (w *world) warnsOf(p *process, company string) {
	w.t.Helper()
	eventually(w.t, "health names the company", func() bool {
		code, report := p.health()
		for _, warning := range report.Warnings {
			if strings.Contains(warning.Message, company) && strings.Contains(warning.Message, "eds import") {
				return code == http.StatusOK && len(report.Reasons) == 0
			}
		}
		return false
	}, p.output)
	eventually(w.t, "the log names the company", func() bool { return strings.Contains(p.warnings(), company) }, p.output)
}

// TestCompany_IsNamedUntilAnImportCoversIt adds a company to the credential.
func TestCompany_IsNamedUntilAnImportCoversIt(t *testing.T) {
	t.Parallel()
	for name, destination := range destinations {
		for cover, limited := range map[string]bool{"whole import": false, "import of the company": true} {
			t.Run(name+", "+cover, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, destination(t), devhq.Options{})
				all := w.hq.Shop().Companies()
				w.mayRead(all[0])
				w.imports()
				p := w.serve()
				w.continues(p, 100)
				w.unreserved(p)
				p.stop()
				w.equal()

				w.mayRead(all[0], all[1])
				for range 2 { // it is remembered
					p = w.serve()
					w.warnsOf(p, all[1])
					w.work(100)
					w.drain(p)
					w.warnsOf(p, all[1])
					p.stop()
				}
				if limited {
					w.imports("--companyIds", all[1])
				} else {
					w.imports()
				}
				for range 2 {
					p = w.serve()
					w.continues(p, 50)
					w.unreserved(p)
					p.stop()
				}
				w.equal()
			})
		}
	}
}

// TestCompany_ThatIsRemovedRaisesNoAlarm removes a company from the credential and adds it again.
// The server reads the changes in between from the stream.
func TestCompany_ThatIsRemovedRaisesNoAlarm(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{})
	all := w.hq.Shop().Companies()
	w.mayRead(all[0], all[1])
	w.imports()
	p := w.serve()
	w.continues(p, 100)
	p.stop()
	w.mayRead(all[0])
	p = w.serve()
	w.continues(p, 100)
	p.stop()
	w.mayRead(all[0], all[1])
	p = w.serve()
	w.continues(p, 50)
	w.unreserved(p)
	p.stop()
	w.equal()
}

// TestCompany_ImportOfTheServersCompaniesIsWhole runs servers that follow some of the companies of
// their key. An import of these companies closes a gap, like an import of all.
func TestCompany_ImportOfTheServersCompaniesIsWhole(t *testing.T) {
	t.Parallel()
	for name, byHQ := range map[string]bool{"by the operator": false, "by hq": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, newDatabase(t).url, devhq.Options{})
			w.companies = w.hq.Shop().Companies()[:1]
			only := []string{"--companyIds", w.companies[0]}
			w.imports(only...)
			p := w.serve(only...)
			w.continues(p, 100)
			w.unreserved(p)
			p.stop()
			w.work(100)
			w.trim()
			w.gap(w.serve(only...), "eds import")
			if !byHQ {
				w.imports(only...)
			}
			p = w.serve(only...)
			if byHQ {
				session := w.session(p, "")
				w.notify(session, "import", map[string]any{"backfill": true})
				want(t, w.received(p, session, "import-response", 1), "success", true)
				w.complete(p)
			}
			w.follows(p)
			w.work(50)
			w.drain(p)
			if code, report := p.health(); code != http.StatusOK || len(report.Reasons) > 0 {
				t.Errorf("health is %d: %v", code, report.Reasons)
			}
			p.stop()
			w.equal()
		})
	}
}
