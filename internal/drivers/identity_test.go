package drivers_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/drivers"
)

// identities holds groups of URLs by driver. The URLs of a group name the same destination.
var identities = map[string][][]string{
	"postgres": {
		{
			"postgres://u:p@db/shop", "postgresql://DB:5432/shop/", "postgres://db./shop?sslmode=require&connect_timeout=3",
			"postgres://other@db/sh%6Fp?metadata=true", "postgres:///shop?host=db",
			"postgres://x/y?dbname=shop&host=db&port=5432", "postgres://${HOST}/shop", "postgres://db/${DB}?password=x",
			"postgres://${USER}:${PASSWORD}@db/shop?schema=",
		},
		{"postgres://db/shop?schema=a&sslmode=disable", "postgresql://db/shop?sslmode=require&schema=%61"},
		{"postgres://db/shop?search_path=a"},
		{"postgres://db:5433/shop", "postgres://db/shop?port=5433"},
		{"postgres://db/other"},
		{"postgres://[::1]/shop", "postgres://[0:0::1]:5432/shop"},
		{"postgres://a,b:5433/shop", "postgres://b:5433,A:5432/shop"},
		{"postgres:///shop?host=/run/A", "postgres://x/shop?port=5432&host=%2Frun%2FA"},
		{"postgres:///shop?host=/run/a"},
	},
	"mysql": {
		{"mysql://u:p@db/shop", "mysql://DB:3306/shop?tls=true", "mysql://db:${PORT}/shop"},
		{"mysql://db:3307/shop"},
		{"mysql://db/other"},
		{"mysql://u@/shop?socket=/run/a&compress=true", "mysql:///shop?socket=%2Frun%2Fa"},
		{"mysql://u@/shop?socket=/run/b"},
	},
	"sqlserver": {
		{"sqlserver://u:p@db/shop", "mssql://DB:1433/shop?Encrypt=disable", "sqlserver://db?Database=shop"},
		{"sqlserver://db/shop?Schema=a", "mssql://db/shop?schema=a&app%20name=x"},
		{"sqlserver://db/shop?instance=One", "sqlserver://db/one?database=shop"},
		{"sqlserver://db/shop?instance=two"},
		{"sqlserver://db:1434/shop"},
		{"sqlserver://db/other"},
	},
	"snowflake": {
		{
			"snowflake://u:p@org-acc/shop", "snowflake-keypair://u@ORG-ACC.snowflakecomputing.com:443/SHOP/public?secret-key=K",
			"snowflake://u:p@org-acc/shop?schema=Public&warehouse=W",
			"snowflake://u:p@org-acc/shop/PUBLIC?role=R&flush-rows=7",
		},
		{"snowflake://u:p@org-acc/shop/other"},
		{`snowflake://u:p@org-acc/%22shop%22`},
		{"snowflake://u:p@loc.eu-central-1/shop", "snowflake://u:p@loc/shop?region=eu-central-1"},
		{"snowflake://u:p@proxy:8080/shop?account=a"},
		{"snowflake://u:p@proxy:8080/shop?account=b"},
	},
	"sqlite": {
		{
			"sqlite://WD/real/shop.db", "sqlite://real/shop.db", "sqlite://./real/../link/shop.db?busy_timeout=1s",
			"sqlite://WD/link/sh%6Fp.db", "sqlite:///${DIR}/real/shop.db",
		},
		{"sqlite://WD/real/other.db"},
		{"sqlite://WD/away/shop.db", "sqlite://WD/nowhere/below/shop.db"}, // away is a link to a missing directory
	},
	"file": {
		{"file://WD/real", "file://WD/real/", "file://real", "file://./link?format=ndjson", "file://WD/link/."},
		{"file://WD/real/below", "file://link/below"},
		{"file://WD/away", "file://WD/nowhere/below"},
	},
	"s3": {
		{
			"s3://bucket/p?region=eu-west-1", "s3://Bucket/p/", "s3://bucket.s3.eu-west-1.amazonaws.com/p",
			"s3://s3.amazonaws.com/bucket/p?access-key-id=a&secret-access-key=b",
			"s3://bucket/p?endpoint=https://s3.eu-west-1.amazonaws.com", "s3://bucket/p?format=parquet",
		},
		{"s3://bucket/other"},
		{"s3://bucket/p?region=cn-north-1", "s3://s3.cn-north-1.amazonaws.com.cn/bucket/p"},
		{"s3://bucket/p?region=us-gov-west-1"},
		{"s3://minio:9000/bucket/p", "s3://bucket/p?endpoint=http://MinIO:9000", "s3://minio:9000/bucket/p/?region=x&tls=false"},
		{"s3://minio:9001/bucket/p"},
		{"s3://storage.googleapis.com/bucket/p", "s3://bucket/p?endpoint=https://storage.googleapis.com:443"},
	},
	"kafka": {
		{"kafka://a,b:9093/orders", "kafka://B:9093,a:9092?topic=orders", "kafka://u:p@a,b:9093/orders/?auth=plain&key=row"},
		{"kafka://a,b:9093/other", "kafka://a,b:9093?topic=other&key=row"},
		{"kafka://a/orders"},
		{"kafka://a/eds.%7B%7B.table%7D%7D", "kafka://a?topic=eds.{{.table}}"},
	},
	"eventhub": {
		{
			"eventhub://ns.x.net/;SharedAccessKeyName=n;SharedAccessKey=k=;EntityPath=h", "eventhub://NS.x.net/h?auth=managed-identity",
			"eventhub://ns.x.net/?hub=h&auth=default",
			"eventhub://ns.x.net:5671/%3BSharedAccessKeyName%3Dm%3BSharedAccessKey%3Dl%3BEntityPath%3Dh",
			"eventhub://ns.x.net/;SharedAccessKeyName=n;SharedAccessKey=${PASSWORD};EntityPath=h",
		},
		{"eventhub://ns.x.net/other"},
		{"eventhub://other.x.net/h"},
	},
	"webhook": {
		{"https://h/in?secret=s", "https://H:443/in/", "https://u:p@h/in?eds-rows=7", "https://h/%69n?secret=${PASSWORD}&gzip=true"},
		{"https://h/in?a=1&b=2&eds-secret=x", "https://h/in?eds-rows=3&b=2&a=1&token=q"},
		{"https://h/in?a=2&b=2&eds-secret=x"},
		{"https://h"},
		{"https://h/other"},
		{"https://h:444/in"},
		{"http://localhost/in", "http://localhost:80/in"},
	},
}

func TestIdentity_IsOnePerDestination(t *testing.T) {
	wd, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(wd)
	for _, err := range []error{
		os.Mkdir("real", 0o700), os.Symlink("real", "link"), os.Symlink(filepath.Join("nowhere", "below"), "away"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	environment := map[string]string{"HOST": "db", "DB": "shop", "PASSWORD": "SECRET", "USER": "SECRET", "PORT": "3306", "DIR": wd}
	lookup := func(name string) (string, bool) { v, ok := environment[name]; return v, ok }
	for driver, groups := range identities {
		seen := make(map[string]string)
		for _, urls := range groups {
			one := ""
			for _, raw := range urls {
				raw = strings.ReplaceAll(raw, "WD", filepath.ToSlash(wd))
				identity, err := drivers.Identity(raw, lookup)
				if err != nil {
					t.Fatalf("%s: %v", raw, err)
				}
				if masked, err := drivers.Identity(drivers.MaskURL(raw), lookup); err != nil || masked != identity {
					t.Errorf("%s: %s, masked %s, %v", raw, identity, masked, err)
				}
				if one == "" {
					one = identity
				}
				if identity != one || strings.Contains(identity, "SECRET") {
					t.Errorf("%s: %s, want %s", raw, identity, one)
				}
			}
			if other := seen[one]; other != "" {
				t.Errorf("%s: %s has the identity %s of %s", driver, urls[0], one, other)
			}
			seen[one] = urls[0]
		}
	}
	for _, d := range drivers.All() {
		if d.Identity == nil || identities[strings.TrimSuffix(d.Name, "-keypair")] == nil {
			t.Errorf("%s has no identity, or it is not tested", d.Name)
		}
	}
}
