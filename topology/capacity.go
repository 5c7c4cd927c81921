package topology

import (
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/sealane/sealane/api/v1alpha1"
)

// checkAccounts refuses limits of accounts that the broker of some member could not
// grant together. To NATS the limit of an account is a reservation, on every member:
// an account for which too little is left gets no JetStream at all.
func checkAccounts(t *v1alpha1.MessagingTopology, rep *report) {
	for _, kind := range []struct {
		name    string
		limit   func(v1alpha1.AccountLimits) *resource.Quantity
		has     func(v1alpha1.BrokerTemplate) *resource.Quantity
		without int64
	}{
		{"storage", func(l v1alpha1.AccountLimits) *resource.Quantity { return l.Storage }, func(b v1alpha1.BrokerTemplate) *resource.Quantity { return b.Storage }, defaultStorage},
		{"memory", func(l v1alpha1.AccountLimits) *resource.Quantity { return l.Memory }, func(b v1alpha1.BrokerTemplate) *resource.Quantity { return b.Memory }, defaultMemory},
	} {
		least, where, field := int64(-1), "", ""
		broker := func(b *resource.Quantity, name, path string) {
			if v := quantity(b, kind.without); least < 0 || v < least {
				least, where, field = v, name, path
			}
		}
		for gi, g := range t.Spec.Groups {
			path := index("spec.groups", gi)
			broker(kind.has(g.Broker), "group "+g.Name, path+".broker."+kind.name)
			for oi, o := range g.Overrides {
				broker(either(kind.has(o.Broker), kind.has(g.Broker)), "member "+o.Cluster, index(path+".overrides", oi)+".broker."+kind.name)
			}
		}
		if least < 0 {
			continue // no groups
		}
		var used int64
		for i, a := range t.Spec.Accounts {
			v := quantity(kind.limit(a.Limits), 0)
			if v > least-used {
				rep.refuse(index("spec.accounts", i)+".limits."+kind.name, v1alpha1.ReasonInsufficientCapacity,
					"account %s reserves %d bytes of %s on each member, where %d of the %d bytes that %s has are reserved by the accounts before it: lower the limits of accounts, or raise %s",
					a.Name, v, kind.name, used, least, where, field)
				break
			}
			used += v
		}
	}
}
