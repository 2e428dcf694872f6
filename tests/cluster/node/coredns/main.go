// CoreDNS with the few plugins that a test node needs: a fraction of the
// build that the full set of cloud providers costs.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

// The order in which a query meets the plugins.
func init() {
	dnsserver.Directives = []string{
		"reload", "bind", "ready", "errors", "log", "cache", "loadbalance", "hosts", "kubernetes",
	}
}

func main() {
	coremain.Run()
}
