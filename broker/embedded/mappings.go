package embedded

import "github.com/nats-io/nats-server/v2/server"

// domainAPI are the interfaces of the JetStream API, each of which the server maps
// from its domain to the name without one: in the accounts that have JetStream, and
// in the account of each leaf connection that opens.
var domainAPI = [...]string{"INFO", "STREAM.>", "CONSUMER.>", "DIRECT.>", "META.>", "SERVER.>", "ACCOUNT.>"}

// domainViews are mapped likewise, but leave the API.
var domainViews = [...]string{"$KV.>", "$OBJ.>"}

// trimDomainMappings shortens what each message is compared with in the accounts,
// by key (ADR 12). Without JetStream the mappings lead nowhere, and are removed.
// With it those of the API become one, which comes after those of the views, for
// the first that matches counts. The server brings its own back with a new
// connection and with new claims of the account; it then has none for a moment
// itself.
func trimDomainMappings(srv *server.Server, keys []string) {
	js := srv.JetStreamConfig()
	if js == nil || js.Domain == "" {
		return
	}
	api := "$JS." + js.Domain + ".API."
	for _, key := range keys {
		a, err := srv.LookupAccount(key)
		if err != nil || a == srv.SystemAccount() {
			continue
		}
		trimmed := false
		for _, s := range domainAPI {
			trimmed = a.RemoveMapping(api+s) || trimmed
		}
		if !a.JetStreamEnabled() {
			a.RemoveMapping(api + ">")
			for _, s := range domainViews {
				a.RemoveMapping(api + s)
			}
			continue
		}
		if trimmed {
			a.RemoveMapping(api + ">")
			// Both are subjects that NATS accepts.
			a.AddMapping(api+">", "$JS.API.>") //nolint:errcheck // as above
		}
	}
}
