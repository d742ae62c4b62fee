package mysql_test

import (
	"fmt"
	"net/url"
	"os"
	"slices"
	"testing"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/drivers/mysql"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// rows returns a function that builds batches of one row each.
func rows(t *testing.T) func(id int) *change.Batch {
	thing, clock := sinktest.Table(t, "thing", 1, "id string", "n integer"), int64(0)
	return func(id int) *change.Batch {
		clock++
		return sinktest.NewChanges(t, clock).Put(thing, fmt.Sprintf(`{"id":"%d","n":%[1]d}`, id)).Batch()
	}
}

func TestPassword_IsReadAtEachConnection(t *testing.T) {
	server := peers.StartMariaDB(t)
	admin := openURL(t, server.Database(t), sink.Env{})
	admin.exec("CREATE USER eds IDENTIFIED BY 'first'; GRANT ALL ON *.* TO eds")
	u, err := url.Parse(admin.url)
	if err != nil {
		t.Fatal(err)
	}
	files, row := sinktest.NewRotation(t), rows(t)
	raw := "mysql://eds:" + files.Placeholder("password") + "@" + u.Host + u.Path
	env := sink.Env{Stream: "dbchange", Consumer: "eds-1", Filter: "*"}
	files.Put("password", []byte("mistyped\n"))
	if _, err := files.Open(mysql.Driver(), raw, env); fault.Of(err) != fault.Fatal {
		t.Fatalf("at the first start: %v: %v", fault.Of(err), err)
	}
	files.Put("password", []byte("first\n"))
	s, err := files.Open(mysql.Driver(), raw, env)
	files.Works("the first password", err)
	files.Works("a batch", s.Apply(t.Context(), row(1)))
	admin.exec("ALTER USER eds IDENTIFIED BY 'second'")
	files.Works("a connection that is open", s.Apply(t.Context(), row(2)))
	admin.exec("KILL USER eds")
	batch := row(3)
	files.Waits("a new connection", s.Apply(t.Context(), batch), `refuses the password of user "eds"`, "first", "second")
	files.Put("password", []byte("second\n"))
	files.Works("the second password", s.Apply(t.Context(), batch))
	if got := admin.query("SELECT GROUP_CONCAT(id ORDER BY id) FROM thing"); !slices.Equal(got, []string{"1,2,3"}) {
		t.Errorf("the table has the rows %v", got)
	}
}

func TestCertificates_AreReadAtEachConnection(t *testing.T) {
	server := peers.StartMariaDB(t)
	database := server.Database(t)
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	files, row := sinktest.NewRotation(t), rows(t)
	trust := func(authority string) {
		text, err := os.ReadFile(authority)
		if err != nil {
			t.Fatal(err)
		}
		files.Put("authority", text)
	}
	certify := func() {
		certificate, key := server.ClientCertificate(t, "eds")
		files.Put("certificate", certificate)
		files.Put("key", key)
	}
	trust(server.EnableTLS(t, "db.example.com"))
	certify()
	s, err := files.Open(mysql.Driver(), "mysql://root@"+u.Host+u.Path+"?tls-server-name=db.example.com&tls-ca="+files.Path("authority")+
		"&tls-cert="+files.Path("certificate")+"&tls-key="+files.Path("key"), sink.Env{})
	files.Works("the first certificates", err)
	files.Works("a batch", s.Apply(t.Context(), row(1)))
	other := server.EnableTLS(t, "db.example.com")
	files.Waits("another authority", s.Apply(t.Context(), row(2)), "signed by an authority that is not trusted")
	files.Put("authority", []byte("half a cert"))
	files.Waits("half a file", s.Apply(t.Context(), row(2)), "the file that option tls-ca names holds no certificate in PEM")
	trust(other)
	files.WaitsEventually("the first client's certificate", func() error { return s.Apply(t.Context(), row(2)) },
		"the server refuses the connection; it may want a client's certificate")
	certify()
	files.Works("the second certificates", s.Apply(t.Context(), row(2)))
}
